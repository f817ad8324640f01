"""Sweep: finds lost jobs, which are in no list and no registry, and brings them back. Called by `maintenance`.

Our own scripts lose no jobs. Others do: an older release of the worker, a plain `rq worker` that is killed between its
pop and its start, a person who deletes a list.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import redis

from shared import keys
from shared.rq_time import format_rq_time
from shared.server.error_translation import explain
from shared.server.raw_connection import RawConnection
from worker.rq import scripts

log = logging.getLogger("sortline.sweep")

# All workers of the same queues together make one step in this time. A step blocks the server for a millisecond or two.
# A million keys take half an hour.
STEP_INTERVAL_S = 1.0
KEYS_PER_STEP = 500
# A job counts as lost when it has been missing for the length of a lease plus this time, by which the keys of an
# execution outlive its lease.
GRACE_ABOVE_LEASE_S = 60.0


class Swept(NamedTuple):
    """What one step did.

    `requeued`: lost jobs that it brought back; `failed`: jobs that it failed because they were lost for the second
    time; `removed`: keys and ids that it deleted because they are too large for a job.
    """

    requeued: int
    failed: int
    removed: int = 0


class Sweeper:
    """Looks for lost jobs of one worker's queues."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        queues: Sequence[str],
        lease_s: int,
        interval_s: float = STEP_INTERVAL_S,
        grace_s: float | None = None,
        keys_per_step: int = KEYS_PER_STEP,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._script = scripts.load(RawConnection(client), "sweep")
        self._queues = list(queues)
        self._interval_s = interval_s
        self._grace_s = lease_s + GRACE_ABOVE_LEASE_S if grace_s is None else grace_s
        self._keys_per_step = keys_per_step
        self._clock = clock
        self._refused = ""  # the server's words when it last refused the script

    def step(self) -> Swept:
        """Check the next few of the server's keys, unless another worker has just done so.

        Raises:
            redis.exceptions.RedisError: the server can't be reached, or is a replica.
        """
        try:
            requeued, failed, removed = self._script(
                args=[
                    keys.sweep(self._queues),
                    keys.missing(self._queues),
                    format_rq_time(self._clock()),
                    self._interval_s,
                    self._grace_s,
                    self._keys_per_step,
                    *self._queues,
                ]
            )
        except redis.exceptions.ReadOnlyError:
            raise
        except redis.exceptions.ResponseError as error:
            # The worker can do without the sweep. A login that may not use SCAN must not look like a server that can't
            # be reached.
            if (refused := explain(error)) != self._refused:
                self._refused = refused
                log.warning("lost jobs are not searched for: %s", refused)
            return Swept(0, 0)
        if requeued:
            log.warning("found %d lost jobs, in no queue and held by no worker: put back in their queues", requeued)
        if failed:
            log.error("found %d jobs that were lost for the second time: they will be answered as failed", failed)
        if removed:
            log.error(
                "deleted %d keys or ids that are too large for a job: somebody with a producer's rights wrote them",
                removed,
            )
        return Swept(int(requeued), int(failed), int(removed))
