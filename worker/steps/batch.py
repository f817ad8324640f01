"""Batch: forms batches from decoded items. In: `Decoded`, in any order. Out: `Batch`.

A batch starts when it is full, when waiting longer would miss a deadline, or when its oldest item has waited for the
linger time, whichever is first. It is full when its size gives the best rate (`BatchCost.best_size`). What it takes is
planned when it starts (`worker.steps.batch_plan`): items leave by earliest deadline, those that can't be in time any
more leave it as expired, and the queues other than the most urgent one get their share of the engine's time. All items
of a batch are for one model.

By default no batch waits for images that may never come (`linger_ms` is 0). While the model is busy, items collect by
themselves, and the next batch is formed when the engine can accept one or the model is idle. An idle model waits a
moment for images that are being decoded.
"""

from __future__ import annotations

import itertools
import threading
import time
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.models.model import Model
from worker.state.jobs import AdmittedJob, ClaimedJob
from worker.state.latency_estimator import FINISH_MARGIN_S, LatencyEstimator
from worker.steps.batch_plan import OVERDUE, Plan, Start, plan_batch
from worker.steps.work import Batch, Decoded

# An item without a deadline is ordered as if it were due after this time, so that a stream of urgent items can't keep
# it waiting forever.
NO_DEADLINE_S = 5.0
# How long an idle model waits for images that are being decoded: one batch of them is faster than several small ones.
DECODING_WAIT_S = 0.002
# A batch starts this much before the last moment for a deadline: threads take time to wake up.
_WAKE_S = 0.001
# The most time between two batches that counts as a part of the second one's cost. More is not the worker's work.
_BETWEEN_S = 0.003
_NEVER = float("inf")
# Seconds that an image counts as while its model's cost is not known.
_UNKNOWN_S = 0.001


class _Waiting(NamedTuple):
    due: float  # monotonic seconds
    number: int  # consecutive, so that items with the same deadline stay in order
    deadline: float  # monotonic seconds; infinite if there is none
    item: Decoded


@dataclass(slots=True)
class _Lane:
    """The items that wait for one model, each list in the order in which they leave."""

    urgent: list[_Waiting] = field(default_factory=list)  # of the most urgent queue
    others: list[_Waiting] = field(default_factory=list)

    @property
    def first(self) -> _Waiting:
        """The item that leaves first: the most urgent queue goes before the others."""
        return (self.urgent or self.others)[0]

    def take(self, plan: Plan) -> tuple[list[Decoded], list[Decoded], list[Decoded]]:
        """Remove and return the urgent items of the batch, those of the others, and those that expired."""
        urgent, others = _pick(self.urgent, plan.urgent), _pick(self.others, plan.others)
        expired: list[Decoded] = []
        if plan.expired_urgent or plan.expired_others:
            expired = _pick(self.urgent, plan.expired_urgent) + _pick(self.others, plan.expired_others)
        self.urgent = _without(self.urgent, plan.urgent, plan.expired_urgent)
        self.others = _without(self.others, plan.others, plan.expired_others)
        return urgent, others, expired

    def __iter__(self) -> Iterator[_Waiting]:
        yield from self.urgent
        yield from self.others

    def __len__(self) -> int:
        return len(self.urgent) + len(self.others)


class _Decision(NamedTuple):
    """Whether a model's next batch starts now, and for which reason; else when to check again."""

    reason: str | None
    at: float


class Batcher:
    """The decode threads add items, the inference threads take batches of one model each.

    There are items for more than one model only while a canary is tried and just after a swap. Each model's batch has
    its own reasons to start. Of the batches that may start, the one with the most urgent item goes first.

    All times are monotonic: a step of the wall clock must not delay a batch.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        linger_s: float,
        urgent_queue: str = "",
        others_share: float = 0.0,
        latency: LatencyEstimator | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`others_share` of the engine's time is for queues other than `urgent_queue`. No name: all are urgent."""
        self._max_batch = max_batch
        self._urgent_queue = urgent_queue
        self._others_share = others_share
        self._others_due_s = 0.0  # the engine's time that is due to the other queues
        self._linger_s = linger_s
        self._latency = latency or LatencyEstimator(max_batch=max_batch, clock=clock)
        self._clock = clock
        self._wall_clock = wall_clock
        self._changed = threading.Condition()
        self._lanes: dict[Model, _Lane] = {}  # by model; none is empty
        self._number = itertools.count()
        self._draining = False
        self._decoding_count = 0  # items that were reserved and are being decoded
        # Ids of the batches that were taken and have not ended: in `_running` until the engine can accept the next
        # batch, then in `_finishing`.
        self._running: set[int] = set()
        self._finishing: set[int] = set()
        self._free_since = float("-inf")  # when the engine could accept the next batch
        self._wakes_at: dict[int, float] = {}  # when the threads that wait in `take` wake up by themselves

    def reserve(self, count: int) -> None:
        """Announce `count` items that are about to be decoded. Each must be added or cancelled."""
        with self._changed:
            self._decoding_count += count

    def cancel(self) -> None:
        """A reserved item won't come."""
        with self._changed:
            self._decoding_count -= 1
            if not self._decoding_count:
                self._changed.notify()

    def add(self, item: Decoded) -> None:
        """Add a reserved item to those that wait for a batch of its model."""
        due, deadline, is_urgent = self._order_of(item.admitted)
        waiting = _Waiting(due, next(self._number), deadline, item)
        with self._changed:
            self._decoding_count -= 1
            lane = self._lanes.get(item.model)
            if lane is None:
                lane = self._lanes[item.model] = _Lane()
            insort(lane.urgent if is_urgent else lane.others, waiting)
            if self._wakes_at and (self._draining or self._should_wake(item, lane)):
                self._changed.notify()

    def on_ready_for_next(self, batch: Batch) -> None:
        """The engine can accept its next batch. Release one only if it is full; else collect until this batch ends."""
        with self._changed:
            if id(batch) in self._running:
                self._running.remove(id(batch))
                self._finishing.add(id(batch))
                self._free_since = self._clock()
                self._changed.notify()

    def mark_done(self, batch: Batch) -> None:
        """The model has finished this batch. Calling it again changes nothing."""
        with self._changed:
            if id(batch) in self._running or id(batch) in self._finishing:
                self._running.discard(id(batch))
                self._finishing.discard(id(batch))
                self._free_since = self._clock()
                self._changed.notify()

    def drain(self) -> None:
        """No more items will come: from now on batches start without waiting for more."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Batch | None:
        """The next batch; None if none may start within `timeout_s`. It may have expired items, and no others."""
        give_up_at = self._clock() + timeout_s
        has_waited = False
        with self._changed:
            while True:
                batch, check_at = self._next(has_waited=has_waited)
                if batch is not None:
                    return batch
                now = self._clock()
                if now >= give_up_at and (self.is_busy or not self._lanes):
                    return None
                wake_at = give_up_at if self.is_busy or not self._lanes else check_at
                self._wakes_at[threading.get_ident()] = wake_at
                self._changed.wait(max(0.0, wake_at - now))
                has_waited = True
                del self._wakes_at[threading.get_ident()]

    def poll(self) -> tuple[Batch | None, float]:
        """As `take`, but without waiting: the next batch, or else when to ask again unless something changes."""
        with self._changed:
            return self._next(has_waited=False)

    def _next(self, *, has_waited: bool) -> tuple[Batch | None, float]:
        check_at = _NEVER
        chosen: tuple[float, Model, str] | None = None
        for model, lane in self._lanes.items():
            reason, at = self._decide(model, lane)
            if reason is None:
                check_at = min(check_at, at)
            elif chosen is None or lane.first.due < chosen[0]:
                chosen = (lane.first.due, model, reason)
        if chosen is None:
            return None, check_at
        batch = self._form(chosen[1], chosen[2], has_waited=has_waited)
        return (batch, check_at) if batch.items or batch.expired else (None, self._clock() + _WAKE_S)

    def count_ahead_of(self, admitted: AdmittedJob) -> int:
        """How many of the waiting items would go before this one, the other queues' share aside."""
        due, _, is_urgent = self._order_of(admitted)
        last = (due, float("inf"))
        with self._changed:
            lanes = self._lanes.values()
            if is_urgent:
                return sum(bisect_right(lane.urgent, last) for lane in lanes)
            return sum(len(lane.urgent) + bisect_right(lane.others, last) for lane in lanes)

    def is_urgent(self, job: ClaimedJob) -> bool:
        """Whether the job is of the most urgent queue."""
        return not self._urgent_queue or job.lease.queue == self._urgent_queue

    def spare_s(self) -> float:
        """For how many seconds the inference thread could do other work before a waiting item would miss its deadline.

        0 while a batch runs, and while a full batch of several items with deadlines waits: more are likely to follow.
        """
        with self._changed:
            if self.is_busy:
                return 0.0
            needs_s = 0.0
            for model, lane in self._lanes.items():
                start = Start(0.0, model.cost.table, self._max_batch)
                is_full = len(lane) >= max(2, start.cost.best_size(self._max_batch))
                if is_full and lane.first.deadline < _NEVER:
                    return 0.0
                needs_s += start.end_of_all(len(lane)) - FINISH_MARGIN_S
            return self._first_due() - needs_s - FINISH_MARGIN_S - self._clock()

    @property
    def is_busy(self) -> bool:
        """Whether a batch that was taken has not ended yet."""
        return bool(self._running or self._finishing)

    @property
    def is_empty(self) -> bool:
        """Whether no item waits and none is being decoded."""
        return not self._decoding_count and not self._lanes

    @property
    def decoding_count(self) -> int:
        """How many items were announced and are not decoded yet."""
        return self._decoding_count

    @property
    def expected_count(self) -> int:
        """How many items wait here, or will come."""
        return self._decoding_count + len(self)

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def _order_of(self, admitted: AdmittedJob) -> tuple[float, float, bool]:
        """When the item should start, its deadline (both monotonic), and whether it is of the most urgent queue."""
        now, deadline_at, is_urgent = self._clock(), admitted.deadline_at, self.is_urgent(admitted.claimed)
        if deadline_at is None:
            return now + NO_DEADLINE_S, _NEVER, is_urgent
        left_s = deadline_at - self._wall_clock()
        return now + (left_s if left_s < NO_DEADLINE_S else NO_DEADLINE_S), now + left_s, is_urgent

    def _decide(self, model: Model, lane: _Lane) -> _Decision:
        if self._running:
            # A batch that starts now would only wait in the engine. Meanwhile it could take in no more items, and
            # those that miss their deadlines there would still be run.
            return _Decision(None, float("inf"))
        if len(lane) >= model.cost.best_size(self._max_batch):
            return _Decision("full", 0.0)
        if self._draining:
            return _Decision("drain", 0.0)
        if self._finishing:
            return _Decision(None, float("inf"))
        now = self._clock()
        linger_until = min(waiting.item.ready_at for waiting in lane) + self._lingers_s()
        start_by = self._start_by(model, lane)
        if now >= linger_until:
            return _Decision("linger", 0.0)
        if now >= start_by:
            return _Decision("deadline", 0.0)
        return _Decision(None, min(linger_until, start_by))

    def _should_wake(self, item: Decoded, lane: _Lane) -> bool:
        """Whether a batch may start before the first waiting thread wakes up by itself.

        Waking a thread for each item would cost more than everything else that is done for the item here.
        """
        if self._running:
            return False
        if len(lane) >= item.model.cost.best_size(self._max_batch):
            return True
        if self._finishing:
            return False
        if self._decoding_count <= 0:
            return True
        starts_at = min(item.ready_at + self._lingers_s(), self._start_by(item.model, lane))
        return starts_at < min(self._wakes_at.values())

    def _lingers_s(self) -> float:
        return max(self._linger_s, DECODING_WAIT_S) if self._decoding_count > 0 else self._linger_s

    def _start_by(self, model: Model, lane: _Lane) -> float:
        """When a batch of all items must start. They fit into one, or it would be full."""
        due = min(waiting[0].due for waiting in (lane.urgent, lane.others) if waiting)
        return due - model.cost.estimate(len(lane)) - FINISH_MARGIN_S - _WAKE_S

    def _first_due(self) -> float:
        return min((waiting.due for lane in self._lanes.values() for waiting in lane), default=float("inf"))

    def _form(self, model: Model, reason: str, *, has_waited: bool) -> Batch:
        lane, now = self._lanes[model], self._clock()
        since = now if has_waited else self._startable_since(lane, now)
        # Another thread may add a measurement meanwhile: the plan needs figures that don't change.
        start = Start(since + self._latency.free_in_s(), model.cost.table, self._max_batch)
        if lane.others or start.tries_a_size or lane.urgent[0].due < start.end_of_all(len(lane.urgent)):
            plan = self._plan(lane, start)
        else:  # the usual case, and quick: no deadline is in danger
            plan = Plan(range(start.cost.best_size(min(len(lane.urgent), self._max_batch))))
        urgent, others, expired = lane.take(plan)
        if not lane:
            del self._lanes[model]  # a model that was replaced must be freed
        self._count_share(start, urgent=len(urgent), others=len(others))
        items = urgent + others if others else urgent
        needs_s = start.end(1) - now if expired else 0.0
        batch = Batch(tuple(items), reason, tuple(expired), since, needs_s)
        if items:
            self._running.add(id(batch))
        return batch

    def _plan(self, lane: _Lane, start: Start) -> Plan:
        return plan_batch(
            [waiting.deadline for waiting in lane.urgent],
            [waiting.deadline for waiting in lane.others],
            start,
            others_due_s=self._others_due_s,
            tries=self._latency.tries,
        )

    def _startable_since(self, lane: _Lane, now: float) -> float:
        """Since when only the worker kept the engine from running the first items. Their cost counts from then on."""
        first = (lane.urgent or lane.others)[: self._max_batch]
        newest = max([waiting.item.ready_at for waiting in first])
        return min(now, max(newest, self._free_since, now - _BETWEEN_S))

    def _count_share(self, start: Start, *, urgent: int, others: int) -> None:
        """Count the engine's time that is due to the other queues: none while none of their items waits.

        At most a batch of the best size and what makes items overdue: they could not use more of it at once, and after
        a long wait the urgent items must not pay for all of it.
        """
        count, cost = urgent + others, start.cost
        if not any(lane.others for lane in self._lanes.values()):
            self._others_due_s = 0.0
        elif count:
            batch_s = cost.mean(count) or count * _UNKNOWN_S
            best = cost.best_size(start.most)
            most_s = (best + OVERDUE) * (cost.mean(best) / best or _UNKNOWN_S)
            due_s = self._others_due_s + batch_s * (self._others_share - others / count)
            self._others_due_s = min(most_s, max(0.0, due_s))


def _pick(waiting: list[_Waiting], indexes: Sequence[int]) -> list[Decoded]:
    return [waiting[index].item for index in indexes]


def _without(waiting: list[_Waiting], taken: Sequence[int], expired: Sequence[int]) -> list[_Waiting]:
    """What is left; quick if only the first ones go, as they mostly do."""
    first = len(taken)
    if not expired and (not first or taken[-1] == first - 1):
        return waiting[first:] if first else waiting
    gone = {*taken, *expired}
    return [each for index, each in enumerate(waiting) if index not in gone]
