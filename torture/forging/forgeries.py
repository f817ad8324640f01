"""The forgeries, by kind and name. A forgery is a function that takes the forger; to add one, add it to a table.

A forgery tells the forger what must come of it. No forgery may keep a plain image from being sorted.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Mapping

from shared import keys
from torture.forging.forger import Forger, Forgery
from torture.forging.hash_forgeries import HASH_FORGERIES
from torture.forging.key_forgeries import KEY_FORGERIES
from torture.forging.payloads import PAYLOADS
from torture.forging.payloads.ids import KEY_ENDINGS, ODD_IDS
from torture.forging.payloads.messages import MESSAGES, OTHER_CHANNELS
from torture.forging.payloads.payload import REFUSED, SORTED, Payload
from torture.forging.registry_forgeries import REGISTRY_FORGERIES
from torture.server.waiting import wait_until
from worker.rq.leases import REAP_INTERVAL_S

# jobs ───────────────────────────────────────────────────────────────────────────────────────────────


def payload_job(forger: Forger, payload: Payload) -> None:
    """A job with this payload."""
    forger.enqueue_payload(payload)


def odd_id(forger: Forger, job_id: bytes) -> None:
    """A job with an id that RQ would never give, and one with an id that begins like it."""
    forger.enqueue_odd_id(job_id)
    forger.enqueue_junk(job_id + forger.fresh_id().encode())


def call_of_held(forger: Forger) -> None:
    """The ImageJob of a job that a worker holds, in another job."""
    held = forger.held()
    forger.enqueue(outcomes=REFUSED, call={"job_id": held.job_id, "image_key": keys.image(held.job_id)})


def image_of_held(forger: Forger) -> None:
    """The image of a job that a worker holds, in another job."""
    forger.enqueue(outcomes=REFUSED, call={"image_key": keys.image(forger.held().job_id)})


def ended_job(forger: Forger, status: str) -> None:
    """A job that waits though it claims to have ended."""
    forger.enqueue_ended(status)


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


def key_of_rq(forger: Forger, ending: str) -> None:
    """An id that makes another key of RQ's look like a job's."""
    forger.enqueue_non_job(f"{forger.fresh_id()}:{ending}")


# leases ─────────────────────────────────────────────────────────────────────────────────────────────


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


# messages ───────────────────────────────────────────────────────────────────────────────────────────


def message(forger: Forger, text: str | bytes) -> None:
    """A message to one of the workers. It must have arrived: a worker that subscribes again is away for a moment."""
    channel = f"rq:pubsub:{forger.any_worker()}"
    wait_until(lambda: forger.client.publish(channel, text), f"a worker listens to {channel}")


def command_about_held(forger: Forger, command: str) -> None:
    """One of RQ's commands, about a job that the worker may hold."""
    held = forger.held()
    message(
        forger,
        f'{{"command": "{command}", "job_id": "{held.job_id}", "execution_id": "{held.execution_id}"}}',
    )


def shutdown_of_nobody(forger: Forger, channel: str) -> None:
    """RQ's command `shutdown`, to a channel that is no worker's."""
    forger.client.publish(channel, '{"command": "shutdown"}')


_ODD_IDS: Mapping[str, Forgery] = {
    **{f"id {job_id[:24]!r}, {len(job_id):,} bytes": functools.partial(odd_id, job_id=job_id) for job_id in ODD_IDS},
    **{f"id of RQ's {ending}": functools.partial(key_of_rq, ending=ending) for ending in KEY_ENDINGS},
    "id of a job of another type": lambda forger: forger.enqueue_non_job(forger.fresh_id()),
    "id of a held job, again": duplicate_of_held,
    "id of a waiting job, again": duplicate_of_own,
    "ids without a job": ids_without_job,
}
_MESSAGES: Mapping[str, Forgery] = {
    **{f"message: {name}": functools.partial(message, text=text) for name, text in MESSAGES.items()},
    **{
        f"message: {command} of a held job": functools.partial(command_about_held, command=command)
        for command in ("kill-horse", "stop-job", "stop-execution")
    },
    **{f"message to {channel!r}": functools.partial(shutdown_of_nobody, channel=channel) for channel in OTHER_CHANNELS},
}
_PAYLOADS: Mapping[str, Forgery] = {
    **{f"payload: {name}": functools.partial(payload_job, payload=payload) for name, payload in PAYLOADS.items()},
    "payload: a held job's ImageJob": call_of_held,
    "payload: a held job's image": image_of_held,
    **{f"payload: status {status}": functools.partial(ended_job, status=status) for status in ("finished", "failed")},
}
_REGISTRIES: Mapping[str, Forgery] = {
    **REGISTRY_FORGERIES,
    "second leases of held jobs": leases_of_held,
    "lease of a waiting job": lease_of_own,
}
# What the campaign counts, and in which words.
KINDS: Mapping[str, Mapping[str, Forgery]] = {
    "payloads": _PAYLOADS,
    "odd ids": _ODD_IDS,
    "registries": _REGISTRIES,
    "messages": _MESSAGES,
    "keys of another type, or with junk": KEY_FORGERIES,
    "values in Sortline's keys": HASH_FORGERIES,
}
FORGERIES: Mapping[str, Forgery] = dict(itertools.chain.from_iterable(kind.items() for kind in KINDS.values()))
