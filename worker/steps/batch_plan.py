"""Plans the next batch: which of the waiting items it takes, and which are given up. Pure.

docs/decisions/batch-by-cost.md has the rule and its reasons.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from worker.state.batch_cost import sizes_up_to
from worker.state.latency_estimator import FINISH_MARGIN_S

# The most items that are looked at to find the size of a batch. More than a worker usually holds.
_LOOKAHEAD = 64
# Once so many items of the other queues are due, they go even if that costs an urgent item its deadline.
_OVERDUE = 2


class Costs(Protocol):
    """What a batch of each size costs: `BatchCost`."""

    def estimate(self, size: int) -> float:
        """Seconds that a batch hardly ever exceeds."""

    def mean(self, size: int) -> float:
        """Seconds that a batch takes on average."""

    def best_size(self, most: int) -> int:
        """The size up to `most` with the most images per second."""

    def size_to_try(self, most: int) -> int:
        """The same, or a larger size that could be better and was not measured lately."""

    def short_size(self, most: int) -> int:
        """The smallest size with nearly the best rate, or a size to try."""


class Plan(NamedTuple):
    """Indexes of the items that go into the batch, and of those that can't be answered in time any more."""

    urgent: Sequence[int]
    others: Sequence[int] = ()
    expired_urgent: Sequence[int] = ()
    expired_others: Sequence[int] = ()


class Start(NamedTuple):
    """What a batch may cost: it can start at `at`; a batch of `most` images at most."""

    at: float  # in the same seconds as the deadlines
    cost: Costs
    most: int

    def end(self, size: int) -> float:
        """When the results of a batch of `size` are there, if it starts at once."""
        return self.at + self.cost.estimate(size) + FINISH_MARGIN_S

    @property
    def tries_a_size(self) -> bool:
        """Whether a larger batch should be tried, to measure what it costs."""
        return self.cost.size_to_try(self.most) > self.cost.best_size(self.most)

    def end_of_all(self, count: int) -> float:
        """When the results of `count` items are there, in batches of the best size."""
        size = self.cost.best_size(min(count, self.most))
        return self.at - (-count // size) * self.cost.estimate(size) + FINISH_MARGIN_S


def plan_batch(
    urgent: Sequence[float], others: Sequence[float], start: Start, *, others_due_s: float = 0.0, tries: bool = False
) -> Plan:
    """Plan the next batch from the deadlines of the items that wait, in the order in which they leave.

    Args:
        urgent: deadlines of the items of the most urgent queue; infinite for an item without one.
        others: those of the other queues.
        start: when the batch may start, and what it costs.
        others_due_s: the engine's time that is due to the other queues.
        tries: if no item can be in time by the estimates, the one with the most time left is run all the same.
    """
    can, cannot = _split(urgent, start.end(1))
    others_can, others_cannot = _split(others, start.end(1))
    if not can and not others_can and tries:
        return _try(urgent, others, cannot, others_cannot, now=start.at)
    chosen = _choose(urgent, can, start)
    if not chosen:  # an urgent item that can be in time is always chosen
        short = start._replace(most=start.cost.short_size(start.most))  # an urgent item may come meanwhile
        return Plan((), _choose(others, others_can, short), cannot, others_cannot)
    keeps, joins = _with_others(urgent, can, chosen, others_can, start, due_s=others_due_s)
    ends_at = start.end(keeps + joins)
    joining = [index for index in others_can if others[index] >= ends_at][:joins]
    return Plan(chosen[:keeps], joining, cannot, others_cannot)


def _split(deadlines: Sequence[float], ends_at: float) -> tuple[list[int], list[int]]:
    """Indexes of the deadlines that can be met, and of those that can't."""
    can: list[int] = []
    cannot: list[int] = []
    for index, deadline in enumerate(deadlines):
        (can if deadline >= ends_at else cannot).append(index)
    return can, cannot


def _try(
    urgent: Sequence[float], others: Sequence[float], cannot: list[int], others_cannot: list[int], *, now: float
) -> Plan:
    """Run the item with the most time left, if its deadline has not passed yet. The engine would be idle anyway."""
    if cannot and urgent[best := max(cannot, key=urgent.__getitem__)] > now:
        return Plan((best,), (), [index for index in cannot if index != best], others_cannot)
    if others_cannot and others[best := max(others_cannot, key=others.__getitem__)] > now:
        return Plan((), (best,), cannot, [index for index in others_cannot if index != best])
    return Plan((), (), cannot, others_cannot)


def _choose(deadlines: Sequence[float], can: Sequence[int], start: Start) -> list[int]:
    """The first items that a batch of the best size keeps in time, or enough to measure another size."""
    if not can:
        return []
    if start.tries_a_size:
        to_try = start.cost.size_to_try(start.most)
        # What a batch of two takes is not known from single images. If it had to be in time by twice the time of one,
        # it might never be tried.
        ends_at = start.end(to_try if to_try > 2 else 1)
        able = [index for index in can if deadlines[index] >= ends_at]
        if len(able) >= to_try:
            return able[:to_try]
    size = next_size(sorted(deadlines[index] for index in can[:_LOOKAHEAD]), start)
    ends_at = start.end(size)
    return [index for index in can if deadlines[index] >= ends_at][:size]


def next_size(deadlines: Sequence[float], start: Start) -> int:
    """How many items the next batch should take, if a batch of one item could meet each of these deadlines, in order.

    If batches of the best rate keep all of them, it is the first of those. Otherwise it is the size that keeps the most
    in time if such batches follow it; of equally good ones the one after which all is done first, then the smallest.
    """
    size = _feasible_size(deadlines[0], len(deadlines), start)
    if _play_out(deadlines, start, size)[0] == len(deadlines):
        return size
    best = (0, -math.inf)
    for candidate in sizes_up_to(min(len(deadlines), start.most)):
        kept, ends_at = _play_out(deadlines, start, candidate)
        if (kept, -ends_at) > best:
            best, size = (kept, -ends_at), candidate
    return size


def _play_out(deadlines: Sequence[float], start: Start, size: int) -> tuple[int, float]:
    """How many are in time, and when all is done, if a batch of `size` comes first and batches of the best rate follow.

    An item that a batch would not keep in time is left out.
    """
    at, cost, most = start
    count = len(deadlines)
    index = bisect_left(deadlines, start.end(size))
    kept = min(size, count - index)
    index += kept
    at += cost.mean(size)
    while index < count:
        size = _feasible_size(deadlines[index], count - index, Start(at, cost, most))
        index += size or 1
        if size:
            kept += size
            at += cost.mean(size)
    return kept, at


def _feasible_size(deadline: float, waiting: int, start: Start) -> int:
    """The size with the best rate that meets this deadline, the earliest one; 0 if none does."""
    size = start.cost.best_size(min(waiting, start.most))
    if start.end(size) <= deadline:
        return size
    for smaller in reversed(sizes_up_to(size)):
        if start.end(smaller) <= deadline:
            return smaller
    return 0


def _with_others(
    deadlines: Sequence[float],
    can: Sequence[int],
    chosen: Sequence[int],
    others: Sequence[int],
    start: Start,
    *,
    due_s: float,
) -> tuple[int, int]:
    """How many of the chosen urgent items stay in the batch, and how many of the other queues' items join them."""
    size, most = len(chosen), min(len(chosen) + len(others), start.most)
    if not others or not chosen:
        return size, 0
    if len(can) == size:  # no urgent item waits behind this batch: fill it up if that gives a much better rate
        size_filled = start.cost.short_size(most)
        if size_filled > size and start.end(size_filled) <= min(deadlines[index] for index in chosen):
            return size, size_filled - size
    best = start.cost.best_size(start.most)
    one_s = start.cost.mean(best) / best
    due = min(len(others), start.most, int(due_s / one_s) if one_s else 0)
    joins = min(due, most - size)
    if joins and _costs_nothing(deadlines, can, chosen, start, joins):
        return size, joins
    if due >= _OVERDUE:  # they take the places of the last urgent items, which wait for the next batch
        return max(0, size - due), due
    return size, 0


def _costs_nothing(
    deadlines: Sequence[float], can: Sequence[int], chosen: Sequence[int], start: Start, joins: int
) -> bool:
    """Whether so many more items in the batch make no urgent item late, in the batch or behind it."""
    if start.end(len(chosen) + joins) > min(deadlines[index] for index in chosen):
        return False
    taken = set(chosen)
    behind = sorted(deadlines[index] for index in can[:_LOOKAHEAD] if index not in taken)
    alone, joined = (_kept_after(behind, start, start.cost.mean(size)) for size in (len(chosen), len(chosen) + joins))
    return joined == alone


def _kept_after(deadlines: Sequence[float], start: Start, wait_s: float) -> int:
    """How many of these are in time if they wait so long before their first batch."""
    later = start._replace(at=start.at + wait_s)
    able = deadlines[bisect_left(deadlines, later.end(1)) :]
    return _play_out(able, later, _feasible_size(able[0], len(able), later))[0] if able else 0
