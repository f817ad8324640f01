"""Forged members of RQ's registries. See `forgeries`."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping

from shared import keys
from torture.forging.forger import Forger, Forgery
from torture.forging.payloads.payload import SORTED
from torture.forging.payloads.registries import MEMBERS, NEVER, REGISTRIES, SCORES

# How long a lease that never expires stays: much shorter than a lease.
REMOVED_AFTER_S = 0.2


def odd_members(forger: Forger, registry: str, score: str) -> None:
    """Members that are not jobs or leases, with this score. Some stay for ever: a person must remove them."""
    key = keys.rq_registry(REGISTRIES[registry], forger.any_queue())
    forger.client.zadd(key, dict.fromkeys(MEMBERS, SCORES[score]))
    if registry == "started" and score in NEVER:
        time.sleep(REMOVED_AFTER_S)
        forger.client.zrem(key, *MEMBERS)


def waiting_job(forger: Forger, registry: str) -> None:
    """A job that waits in its queue, in a registry too. It is sorted all the same."""
    queue = forger.any_queue()
    job_id = forger.enqueue(outcomes=SORTED, queue=queue)
    forger.client.zadd(keys.rq_registry(registry, queue), {job_id: "inf"})


REGISTRY_FORGERIES: Mapping[str, Forgery] = {
    **{
        f"{registry} jobs, {score}": functools.partial(odd_members, registry=registry, score=score)
        for registry in REGISTRIES
        for score in SCORES
    },
    **{
        f"a waiting job among the {registry} ones": functools.partial(waiting_job, registry=registry)
        for registry in ("deferred", "scheduled", "canceled")
    },
}
