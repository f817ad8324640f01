"""Capacity report: tells the server what this worker can do for each of its queues. Called by `maintenance`.

Producers ask for it at admission, and the metrics compare it with what arrives. The answer says how many jobs wait, and
how many arrive, by which the worker knows whether it is saturated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import redis

from shared.server.error_translation import explain
from shared.server.raw_connection import RawConnection
from worker.observe.queue_forecast import ARRIVALS, CAPACITY, CAPACITY_AT, forecast
from worker.rq import scripts
from worker.rq.broken_keys import BrokenKeys
from worker.state.batch_cost import BatchCost
from worker.state.capacity import CapacityEstimator, has_backlog

log = logging.getLogger("sortline.capacity")

# If more than so much arrives of what all workers can sort, images are refused at the door, or expire. Not just above
# 1, or a worker with an estimate that is too low would take its present rate for the most that it can do.
OVERLOAD = 1.1
# What the script answers of a queue's hash (`shared.keys.flow`), in this order.
_FLOW = (CAPACITY, CAPACITY_AT, *ARRIVALS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """How a worker stands at this moment. `cost` is its model's."""

    cost: BatchCost
    decode_s: float  # of one image: a running mean
    needs_s: float  # from the claim of an image to its result while the worker is busy
    taken: int  # places that jobs take; a job whose result is only to be written takes none
    places: int  # how many jobs the worker takes to keep itself busy
    is_suspended: bool  # by an operator, with `rq suspend`
    is_leaving: bool  # it drains, or has ended


class _QueueState(NamedTuple):
    waiting: int  # jobs
    is_overloaded: bool  # more arrives than all workers can sort


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
            found = self._send(workload, {} if workload.is_suspended else estimator.by_queue(capacity))
        except redis.exceptions.RedisError:
            estimator.discard_window()
            raise
        if found is None or workload.is_suspended or workload.is_leaving:
            estimator.discard_window()
            return
        estimator.observe(
            workload.cost, decode_s=workload.decode_s, has_backlog=any(self._has_backlog(workload, of) for of in found)
        )

    def _has_backlog(self, workload: Workload, queue: _QueueState) -> bool:
        return has_backlog(
            waiting=queue.waiting,
            taken=workload.taken,
            places=workload.places,
            max_batch=self._max_batch,
            is_shedding=queue.is_overloaded or self._estimator.has_expired,
        )

    def _send(self, workload: Workload, rates: dict[str, float]) -> list[_QueueState] | None:
        """Report these rates, 0 for a queue that has none. How each queue stands; None if the server refuses."""
        args: list[str | int] = [self._worker, f"{workload.needs_s:.6f}", int(workload.is_leaving)]
        for queue in self._queues:
            args += [queue, f"{rates.get(queue, 0.0):.6f}"]
        try:
            waiting, problems, flows, now = self._script(args)
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
        return [
            _QueueState(int(count), _is_overloaded(flow, now=float(now)))
            for count, flow in zip(waiting, flows, strict=True)
        ]


def _is_overloaded(flow: Sequence[bytes | None], *, now: float) -> bool:
    found = forecast(dict(zip(_FLOW, flow, strict=True)), depth=0, now=now)
    return found.capacity > 0 and found.load_ratio > OVERLOAD
