"""The forgeries, by name. A forgery is a function that takes the forger; to add one, add it to FORGERIES.

A forgery tells the forger what must come of it. No forgery may keep a plain image from being sorted.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence

from shared import keys
from shared.schemas import Outcome
from torture.forging.forger import STREAM_END, Forger
from torture.forging.job_values import (
    HARMLESS_FIELDS,
    ODD_IDS,
    REFUSED_CALLS,
    REFUSED_DATA,
    REFUSED_FIELDS,
    REJECTED_CALLS,
    REJECTED_IMAGES,
)
from torture.server.waiting import wait_until
from worker.rq.leases import REAP_INTERVAL_S

Forgery = Callable[[Forger], object]

# How long a key stays broken if its queue stops until somebody repairs it: much shorter than a lease.
REPAIRED_AFTER_S = 0.4
SORTED, REJECTED = (Outcome.SORTED,), (Outcome.REJECTED,)


# jobs that must be failed unread ────────────────────────────────────────────────────────────────────


def refused_data(forger: Forger, data: Callable[[], bytes]) -> None:
    """Data that is not a call of `sort_image`."""
    forger.enqueue(outcomes=(), data=data())


def refused_call(forger: Forger, call: Callable[[Forger], dict[str, object]]) -> None:
    """An ImageJob that can't be true."""
    forger.enqueue(outcomes=(), call=call(forger))


def odd_id(forger: Forger, beginning: bytes) -> None:
    """An id that RQ would never give."""
    forger.enqueue_junk(beginning + forger.fresh_id().encode())


# jobs that have a result ────────────────────────────────────────────────────────────────────────────


def harmless_field(forger: Forger, field: str) -> None:
    """A nonsensical value in a field of the job's hash."""
    forger.enqueue(outcomes=SORTED, fields={field: forger.random.choice(HARMLESS_FIELDS[field])})


def rejected_image(forger: Forger, image: Callable[[], bytes | Sequence[bytes] | None]) -> None:
    """Something other than an image under the image's key, or nothing."""
    forger.enqueue(outcomes=REJECTED, image=image())


def rejected_call(forger: Forger, call: Callable[[], dict[str, object]]) -> None:
    """An ImageJob with times that can't be true."""
    forger.enqueue(outcomes=REJECTED, call=call())


# ids in the queues ──────────────────────────────────────────────────────────────────────────────────


def duplicate_of_held(forger: Forger) -> None:
    """The id of a job that a worker holds, twice in every queue."""
    held = forger.held()
    for queue in forger.plant.settings.queue_names:
        forger.push(queue, held.job_id, held.job_id)


def duplicate_of_own(forger: Forger) -> None:
    """The id of a waiting job, several times more."""
    job_id = forger.enqueue(outcomes=SORTED)
    forger.push(forger.any_queue(), *[job_id] * 3)


def ids_without_job(forger: Forger) -> None:
    """Ids without jobs, as if those had been deleted while they waited. Workers skip them."""
    forger.push(forger.any_queue(), *[forger.fresh_id() for _ in range(50)], b"\xff", b"")


def key_of_rq(forger: Forger) -> None:
    """An id that makes another key of RQ's look like a job's."""
    forger.enqueue_non_job(f"{forger.fresh_id()}:dependents")


# leases ─────────────────────────────────────────────────────────────────────────────────────────────


def junk_leases(forger: Forger) -> None:
    """Members of the registry of leases that are not leases, and have expired."""
    members = (b"no-colon", b":", b"a:", b":b", b"\xff\x00:\xff", b"x" * 10_000 + b":y", b"gone:" + b"e" * 32)
    forger.client.zadd(keys.rq_wip(forger.any_queue()), dict.fromkeys(members, forger.random.choice((0, 1, -1e300))))


def leases_of_held(forger: Forger) -> None:
    """Second, expired leases on jobs that workers hold, for as long as workers take to look for expired leases."""
    until = time.monotonic() + REAP_INTERVAL_S
    while time.monotonic() < until:
        leases = {f"{held.job_id}:{forger.fresh_id()}": 1 for held in forger.all_held()}
        forger.client.zadd(keys.rq_wip(forger.any_queue()), leases)


def lease_of_own(forger: Forger) -> None:
    """An expired lease on a job that waits in its queue."""
    job_id = forger.enqueue(outcomes=SORTED)
    forger.client.zadd(keys.rq_wip(forger.any_queue()), {f"{job_id}:{forger.fresh_id()}": 1})


# keys of other types ────────────────────────────────────────────────────────────────────────────────


def wrong_worker(forger: Forger) -> None:
    """A worker's hash."""
    name = forger.any_worker()
    forger.plant.miscounted_in_rq.add(name)
    forger.write_wrong_type(keys.rq_worker(name), right="hash")


def wrong_executions_of_worker(forger: Forger) -> None:
    """A worker's set of executions: of another type, or with members that are not executions."""
    key = f"{keys.rq_worker(forger.any_worker())}:executions"
    if forger.random.random() < 0.5:
        forger.write_wrong_type(key, right="set")
    else:
        forger.replace(key, "SADD", b"\xff", "a:b", ":")


def wrong_wakeup(forger: Forger) -> None:
    """The list that wakes idle workers."""
    forger.write_wrong_type(keys.wakeup(forger.any_queue()), right="list")


def wrong_lines(forger: Forger) -> None:
    """The set of lines."""
    forger.expect_moved(keys.LINES)
    forger.write_wrong_type(keys.LINES, right="set")


def wrong_registry(forger: Forger, registry: str) -> None:
    """RQ's registry of finished or of failed jobs."""
    queue = forger.any_queue()
    key = f"rq:{registry}:{queue}"
    forger.expect_moved(key)
    forger.plant.follower.read_moved_registry(forger.swap(key), registry=registry)
    forger.enqueue(
        outcomes=() if registry == "failed" else SORTED, queue=queue, data=b"junk" if registry == "failed" else None
    )
    forger.wait_for_type(key, b"zset")


def wrong_stream(forger: Forger) -> None:
    """A line's stream of results. Its entries are kept under another key."""
    stream = forger.any_stream()
    forger.expect_moved(stream)
    forger.plant.follower.read_moved_stream(forger.swap(stream), stream=stream)


def used_up_stream(forger: Forger) -> None:
    """A line's stream with no ids left: a worker moves it aside, with its entries."""
    stream = forger.any_stream()
    moved = keys.broken(stream)
    forger.client.delete(moved)  # of an earlier forgery
    forger.client.xadd(stream, {"result": "used up"}, id=STREAM_END)
    forger.plant.planted.add(f"{stream} {STREAM_END}")
    wait_until(lambda: forger.client.type(moved) == b"stream", f"a worker moves {stream} aside")
    kept = f"forged:kept:{forger.fresh_id()}"
    forger.client.rename(moved, kept)
    forger.plant.follower.read_moved_stream(kept, stream=stream)


def junk_entries(forger: Forger) -> None:
    """Entries in a line's stream that are not results."""
    stream = forger.any_stream()
    for fields in ({"result": "{"}, {"result": "[1]"}, {"result": "{}"}, {"forged": b"\xff"}, {"result": b"\xff"}):
        entry_id = forger.client.xadd(stream, fields).decode()
        forger.plant.planted.add(f"{stream} {entry_id}")


def repaired_by_hand(forger: Forger, pattern: str) -> None:
    """A key of RQ's that stays broken until somebody repairs it. Meanwhile its queue stops, or RQ's tools show less."""
    key = pattern.format(queue=forger.any_queue())
    kept = forger.swap(key)
    time.sleep(REPAIRED_AFTER_S)
    forger.swap_back(key, kept)


def wrong_processes(forger: Forger) -> None:
    """The hashes that tell workers about each other's processes."""
    for key in forger.client.scan_iter("sortline:processes:*"):
        forger.write_wrong_type(key.decode(), right="hash")


def junk_processes(forger: Forger) -> None:
    """Entries that are not processes, or not those of the workers, in the hashes of processes."""
    junk: list[str | bytes] = [b"\xff", b"\xff", "nobody", "999999999999:1", "", "", forger.any_worker(), "4194304:1"]
    for key in forger.client.scan_iter("sortline:processes:*"):
        forger.replace(key.decode(), "HSET", *junk)


def junk_in_sets(forger: Forger) -> None:
    """Members of RQ's sets that are not workers or queues."""
    for key in (keys.RQ_WORKERS, keys.rq_queue_workers(forger.any_queue()), keys.RQ_QUEUES):
        forger.client.sadd(key, b"\xff", "", "rq:worker:nobody")


def wrong_sweep(forger: Forger) -> None:
    """The state of the search for lost jobs, and the missing jobs that it has found."""
    queues = forger.plant.settings.queue_names
    forger.write_wrong_type(keys.sweep(queues), right="hash")
    forger.write_wrong_type(keys.missing(queues), right="zset")


def junk_sweep(forger: Forger) -> None:
    """A state of the search for lost jobs whose cursor and time can't be used."""
    cursor = forger.random.choice([b"junk", b"-1", b"", b"\xff", b"9" * 40])
    next_s = forger.random.choice([b"nan", b"inf", b"1e400", b"-1", b"junk", b"\xff"])
    forger.replace(keys.sweep(forger.plant.settings.queue_names), "HSET", "cursor", cursor, "next_s", next_s)


def junk_missing(forger: Forger) -> None:
    """Entries that are not lost jobs, in the set of missing jobs."""
    members = ("no-space", "", " ", b"\xff \xff", f"queued/// {forger.held().job_id}")
    scored = [part for member in members for part in (1, member)]
    forger.replace(keys.missing(forger.plant.settings.queue_names), "ZADD", *scored)


def wrong_suspects(forger: Forger) -> None:
    """The list of jobs that may crash their worker."""
    key = keys.suspects(forger.any_queue())
    forger.expect_moved(key)
    forger.write_wrong_type(key, right="list")


def junk_suspects(forger: Forger) -> None:
    """Suspects that are held, or are no jobs."""
    forger.client.rpush(keys.suspects(forger.any_queue()), forger.held().job_id, "no-such-job", b"\xff", "")


# commands ─────────────────────────────────────────────────────────────────────────────────────────────


def suspended(forger: Forger) -> None:
    """Suspend workers as `rq suspend` does, but by a key of any type; then resume them."""
    forger.write_wrong_type(keys.RQ_SUSPENDED, right=forger.random.choice(("string", "list", "none")))
    time.sleep(REPAIRED_AFTER_S)
    forger.client.delete(keys.RQ_SUSPENDED)


def junk_commands(forger: Forger) -> None:
    """Messages to a worker that are not commands, or are commands that it refuses. (It would obey `shutdown`.)"""
    held = forger.held()
    messages: list[str | bytes] = [
        b"\xff\xfe",
        "",
        '{"command": "shutdown"',
        '{"command": {}}',
        "[1]",
        "null",
        "[" * 100_000,
        "j" * 1_000_000,
        json.dumps({"command": "kill-horse"}),
        json.dumps({"command": "stop-job", "job_id": held.job_id}),
        json.dumps({"command": "stop-execution", "execution_id": held.execution_id}),
    ]
    for message in messages:
        forger.client.publish(f"rq:pubsub:{forger.any_worker()}", message)


FORGERIES: Mapping[str, Forgery] = {
    **{f"data: {name}": functools.partial(refused_data, data=data) for name, data in REFUSED_DATA.items()},
    **{f"call: {name}": functools.partial(refused_call, call=call) for name, call in REFUSED_CALLS.items()},
    **{
        f"field {name}": functools.partial(Forger.enqueue, outcomes=(), fields={name: value})
        for name, value in REFUSED_FIELDS.items()
    },
    **{f"id {name[:10]!r}": functools.partial(odd_id, beginning=name) for name in ODD_IDS},
    **{name: functools.partial(rejected_call, call=call) for name, call in REJECTED_CALLS.items()},
    **{f"image: {name}": functools.partial(rejected_image, image=image) for name, image in REJECTED_IMAGES.items()},
    **{f"odd {field}": functools.partial(harmless_field, field=field) for field in HARMLESS_FIELDS},
    "duplicate of a held job": duplicate_of_held,
    "duplicate of an own job": duplicate_of_own,
    "ids without a job": ids_without_job,
    "job of another type": lambda forger: forger.enqueue_non_job(forger.fresh_id()),
    "key of RQ's as a job": key_of_rq,
    "junk leases": junk_leases,
    "second leases of held jobs": leases_of_held,
    "lease of a waiting job": lease_of_own,
    "executions of a job": functools.partial(Forger.overwrite_held, pattern="rq:executions:{job}", right="zset"),
    "execution": functools.partial(Forger.overwrite_held, pattern="rq:execution:{job}:{execution}", right="hash"),
    "results of a job": functools.partial(Forger.overwrite_held, pattern="rq:results:{job}", right="stream"),
    "worker": wrong_worker,
    "executions of a worker": wrong_executions_of_worker,
    "processes": wrong_processes,
    "junk processes": junk_processes,
    "wakeup list": wrong_wakeup,
    "lines": wrong_lines,
    "finished jobs": functools.partial(wrong_registry, registry="finished"),
    "failed jobs": functools.partial(wrong_registry, registry="failed"),
    "stream of another type": wrong_stream,
    "stream with no ids left": used_up_stream,
    "entries that are not results": junk_entries,
    "queue": functools.partial(repaired_by_hand, pattern="rq:queue:{queue}"),
    "leases": functools.partial(repaired_by_hand, pattern="rq:wip:{queue}"),
    "set of queues": functools.partial(repaired_by_hand, pattern=keys.RQ_QUEUES),
    "set of workers": functools.partial(repaired_by_hand, pattern=keys.RQ_WORKERS),
    "set of a queue's workers": functools.partial(repaired_by_hand, pattern="rq:workers:{queue}"),
    "junk in RQ's sets": junk_in_sets,
    "search for lost jobs": wrong_sweep,
    "junk in the search for lost jobs": junk_sweep,
    "junk in its missing jobs": junk_missing,
    "suspects": wrong_suspects,
    "junk suspects": junk_suspects,
    "suspended": suspended,
    "junk commands": junk_commands,
}
