"""Capacity report: tells the server what this worker can do for each of its queues. Called by `maintenance`.

Producers ask for it at admission, and the metrics compare it with what arrives. The answer says how many jobs wait, by
which the worker knows whether it is saturated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from shared.server.error_translation import explain
from shared.server.raw_connection import RawConnection
from worker.rq import scripts
from worker.rq.broken_keys import BrokenKeys
from worker.state.batch_cost import BatchCost
from worker.state.capacity import CapacityEstimator

log = logging.getLogger("sortline.capacity")

# A worker holds up to three batches. One that holds two while jobs wait is as full as it gets between two claims.
FULL_BATCHES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """How a worker stands at this moment. `cost` is its model's."""

    cost: BatchCost
    decode_s: float  # of one image: a running mean
    needs_s: float  # from the claim of an image to its result while the worker is busy
    held: int  # jobs
    is_suspended: bool  # by an operator, with `rq suspend`
    is_leaving: bool  # it drains, or has ended


class CapacityReport:
    """Reports what one worker can do."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        worker: str,
        queues: Sequence[str],
        max_batch: int,
        estimator: CapacityEstimator,
        workload: Callable[[], Workload],
        broken_keys: BrokenKeys | None = None,
    ) -> None:
        """Does not call the server. `queues`: those that the worker serves; `workload`: how it stands at a moment."""
        self._script = scripts.load(RawConnection(client), "report_capacity")
        self._worker = worker
        self._queues = list(queues)
        self._max_batch = max_batch
        self._estimator = estimator
        self._workload = workload
        self._broken_keys = broken_keys or BrokenKeys()
        self._refused = ""  # the server's words when it last refused the script

    def step(self) -> None:
        """Report once. Call it about once a second.

        Raises:
            redis.exceptions.RedisError: the server can't be reached, or is a replica.
        """
        workload, estimator = self._workload(), self._estimator
        capacity = estimator.images_per_s(workload.cost, decode_s=workload.decode_s)
        try:
            waiting = self._send(workload, {} if workload.is_suspended else estimator.by_queue(capacity))
        except redis.exceptions.RedisError:
            estimator.discard_window()
            raise
        if waiting is None or workload.is_suspended or workload.is_leaving:
            estimator.discard_window()
            return
        is_full = workload.held >= FULL_BATCHES * self._max_batch
        has_backlog = any(count >= (1 if is_full else self._max_batch) for count in waiting)
        estimator.observe(workload.cost, decode_s=workload.decode_s, has_backlog=has_backlog)

    def _send(self, workload: Workload, rates: dict[str, float]) -> list[int] | None:
        """Report these rates, 0 for a queue that has none. Returns how many jobs wait; None if the server refuses."""
        args: list[str | int] = [self._worker, f"{workload.needs_s:.6f}", int(workload.is_leaving)]
        for queue in self._queues:
            args += [queue, f"{rates.get(queue, 0.0):.6f}"]
        try:
            waiting, problems = self._script(args)
        except redis.exceptions.ReadOnlyError:
            raise
        except redis.exceptions.ResponseError as error:
            # The worker can do without the report. A login that lacks a permission must not look like a server that
            # can't be reached.
            if (refused := explain(error)) != self._refused:
                self._refused = refused
                log.warning("producers and metrics don't learn what this worker can do: %s", refused)
            return None
        self._refused = ""
        self._broken_keys.report(problems)
        return [int(count) for count in waiting]
