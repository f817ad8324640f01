"""Forged values in Sortline's own hashes, and in the workers'. See `forgeries`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from shared import keys
from torture.forging.forger import Forger, Forgery
from torture.forging.payloads.key_values import MANY_FIELDS, VALUES

CHUNK = 10_000


class Hash(NamedTuple):
    """One of the hashes: its key, and the fields that somebody reads. `{worker}` stands for the name of a worker."""

    find_key: Callable[[Forger], str]
    fields: tuple[str | bytes, ...]


def _processes(forger: Forger) -> str:
    found = sorted(forger.client.scan_iter("sortline:processes:*"))
    return str(forger.random.choice(found).decode()) if found else keys.processes("nowhere", forger.any_queue())


HASHES: Mapping[str, Hash] = {
    "load": Hash(
        lambda forger: keys.load(forger.any_queue()),
        ("items", "bytes", "items:line-1", "bytes:line-1", "items:", b"items:\xff"),
    ),
    "flow": Hash(
        lambda forger: keys.flow(forger.any_queue()),
        (
            *("capacity", "needs_s", "capacity_at", "arrived", "arrived_for", "arrived_at"),
            *("slack_s", "slack_at", "mixed_at", "line"),
        ),
    ),
    "capacities": Hash(lambda forger: keys.capacities(forger.any_queue()), ("{worker}", "nobody", b"\xff")),
    "sweep": Hash(lambda forger: keys.sweep(forger.plant.settings.queue_names), ("cursor", "next_s")),
    "processes": Hash(_processes, ("{worker}", "nobody", b"\xff")),
    # Not `successful_job_count`, by which the campaign checks the workers.
    "worker": Hash(
        lambda forger: keys.rq_worker(forger.any_worker()),
        (
            *("birth", "last_heartbeat", "queues", "pid", "state", "current_job", "shutdown_requested_date", "death"),
            *("failed_job_count", "total_working_time", keys.LAST_FINISH),
        ),
    ),
}


def forged_values(forger: Forger, of: str, value: str | bytes) -> None:
    """The same value in all fields."""
    worker = forger.any_worker()
    fields = [field.format(worker=worker) if isinstance(field, str) else field for field in HASHES[of].fields]
    forger.add_to_hash(HASHES[of].find_key(forger), dict.fromkeys(fields, value))


def many_fields(forger: Forger, of: str) -> None:
    """More fields than anybody writes."""
    key = HASHES[of].find_key(forger)
    for start in range(0, MANY_FIELDS, CHUNK):
        forger.add_to_hash(key, {f"forged-{number}": "1" for number in range(start, start + CHUNK)})


def lying_capacity(forger: Forger, images_per_s: str) -> None:
    """A capacity that could be true, though it isn't. Until the workers' next report, producers go by it."""
    now = f"{time.time():.6f}"
    fields = {"capacity": images_per_s, "needs_s": "0.001", "capacity_at": now}
    forger.add_to_hash(keys.flow(forger.any_queue()), fields)
    queue = forger.any_queue()
    forger.add_to_hash(keys.capacities(queue), {"nobody": f"{images_per_s} 0.001000 {now}"})


def lying_load(forger: Forger) -> None:
    """Counts that could be true, though they aren't. Producers may be refused until the queue is empty once."""
    forger.add_to_hash(keys.load(forger.any_queue()), {"items": "100", "bytes": "1000000000000"})


HASH_FORGERIES: Mapping[str, Forgery] = {
    **{
        f"{of}: {name}": functools.partial(forged_values, of=of, value=value)
        for of in HASHES
        for name, value in VALUES.items()
    },
    **{f"{of}: {MANY_FIELDS:,} fields": functools.partial(many_fields, of=of) for of in HASHES if of != "worker"},
    "flow: a tiny capacity": functools.partial(lying_capacity, images_per_s="0.000001"),
    "flow: a huge capacity": functools.partial(lying_capacity, images_per_s="999999999.000000"),
    "load: many bytes": lying_load,
}
