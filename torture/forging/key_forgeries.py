"""Forgeries of keys: of other types, or with content that nobody of ours would write. See `forgeries`."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping

from shared import keys
from torture.forging.forger import STREAM_END, Forger, Forgery
from torture.forging.payloads.payload import REFUSED, SORTED
from torture.server.waiting import wait_until

# How long a key stays broken if its queue stops until somebody repairs it: much shorter than a lease.
REPAIRED_AFTER_S = 0.4

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
        outcomes=REFUSED if registry == "failed" else SORTED,
        queue=queue,
        data=b"junk" if registry == "failed" else None,
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
    held, key = forger.held(), keys.suspects(forger.any_queue())
    forger.wait_for_type(key, b"list", b"none")  # an earlier forgery may have broken it
    forger.client.rpush(key, held.job_id, "no-such-job", b"\xff", "")


def suspended(forger: Forger) -> None:
    """Suspend workers as `rq suspend` does, but by a key of any type; then resume them."""
    forger.write_wrong_type(keys.RQ_SUSPENDED, right=forger.random.choice(("string", "list", "none")))
    time.sleep(REPAIRED_AFTER_S)
    forger.client.delete(keys.RQ_SUSPENDED)


KEY_FORGERIES: Mapping[str, Forgery] = {
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
}
