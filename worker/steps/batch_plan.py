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

# How many items are looked at to find the size of a batch, at least: more than a worker with small batches holds.
_LOOKAHEAD = 64
# Once so many items of the other queues are due, they go even if that costs an urgent item its deadline.
OVERDUE = 2


class Costs(Protocol):
    """What a batch of each size costs: `CostTable`. It must not change while a batch is planned."""

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
    def looks_at(self) -> int:
        """How many items are looked at: the next batch and at least one like it."""
        return max(_LOOKAHEAD, 2 * self.cost.best_size(self.most))

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
    waiting = _Waiting(urgent, can, chosen, others, others_can)
    keeps, joining = len(chosen), _fill(waiting, start)
    if not joining:
        keeps, joining = _due(waiting, start, due_s=others_due_s)
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
    size = next_size(sorted(deadlines[index] for index in can[: start.looks_at]), start)
    ends_at = start.end(size)
    return [index for index in can if deadlines[index] >= ends_at][:size]


def next_size(deadlines: Sequence[float], start: Start) -> int:
    """How many items the next batch should take, if a batch of one item could meet each of these deadlines, in order.

    If batches of the best rate keep all of them, it is the first of those. Otherwise it is the size that keeps the most
    in time if such batches follow it; of equally good ones the one after which all is done first, then the smallest.
    """
    rest = _Rest(deadlines, start)
    size = rest.fitting(0, start.at)[0] or 1
    best = rest.kept_after(size, least=len(deadlines))
    if best[0] == len(deadlines):
        return size
    best = (0, -math.inf)
    for candidate in sizes_up_to(min(len(deadlines), start.most)):
        found = rest.kept_after(candidate, least=best[0])
        if found > best:
            best, size = found, candidate
    return size


class _Rest:
    """The items that wait, in the order of their deadlines, and how many of them are in time by each way to go on."""

    def __init__(self, deadlines: Sequence[float], start: Start) -> None:
        self._deadlines = deadlines
        self._start = start
        self._sizes: dict[int, list[tuple[int, float]]] = {}  # with their estimates, for so many items

    def kept_after(self, size: int, *, least: int = 0) -> tuple[int, float]:
        """As `kept`, if a batch of `size` comes first. An item that it would not keep in time is left out."""
        start, count = self._start, len(self._deadlines)
        index = bisect_left(self._deadlines, start.end(size))
        kept = min(size, count - index)
        return self.kept(index + kept, start.at + start.cost.mean(size), before=kept, least=least)

    def kept(self, index: int, at: float, *, before: int = 0, least: int = 0) -> tuple[int, float]:
        """How many are in time, and minus when all is done, if the items from `index` on go in the best batches.

        `before` are in time already. If it can't become `least`, the answer is less than that, and not exact.
        """
        deadlines, count = self._deadlines, len(self._deadlines)
        kept = before
        while index < count and kept + count - index >= least:
            size, is_best = self.fitting(index, at)
            if not size:
                index = bisect_left(deadlines, self._start._replace(at=at).end(1), index + 1)
                continue
            batch_s = self._start.cost.mean(size)
            batches = self._meeting(deadlines[index], at, size, batch_s) if is_best else 1
            batches = int(min(max(1, batches), (count - index) // size))
            index += batches * size
            kept += batches * size
            at += batches * batch_s
        return kept, -at

    def fitting(self, index: int, at: float) -> tuple[int, bool]:
        """The size with the best rate that meets the deadline of this item, and whether none has a better rate.

        The size is 0 if none meets it.
        """
        deadline = self._deadlines[index]
        waiting = min(len(self._deadlines) - index, self._start.most)
        sizes = self._sizes.get(waiting)
        if sizes is None:
            cost = self._start.cost
            largest_first = reversed(sizes_up_to(cost.best_size(waiting)))
            sizes = self._sizes[waiting] = [(size, cost.estimate(size)) for size in largest_first]
        for size, high_s in sizes:
            if at + high_s + FINISH_MARGIN_S <= deadline:
                return size, size == sizes[0][0]
        return 0, False

    def _meeting(self, deadline: float, at: float, size: int, batch_s: float) -> float:
        """How many such batches in a row meet this deadline. They meet all later ones, so none needs a closer look."""
        left_s = deadline - at - self._start.cost.estimate(size) - FINISH_MARGIN_S
        return 1 + left_s // batch_s if batch_s else math.inf


class _Waiting(NamedTuple):
    """The deadlines, and by their indexes which items can be in time and which of them are chosen."""

    urgent: Sequence[float]
    urgent_can: Sequence[int]
    chosen: Sequence[int]
    others: Sequence[float]
    others_can: Sequence[int]

    def joining(self, count: int, start: Start, *, size: int) -> list[int]:
        """At most `count` items of the other queues that a batch of `size` keeps in time."""
        ends_at = start.end(size)
        return [index for index in self.others_can if self.others[index] >= ends_at][:count]

    @property
    def first_deadline(self) -> float:
        """The earliest one in the batch."""
        return min(self.urgent[index] for index in self.chosen)


def _fill(waiting: _Waiting, start: Start) -> list[int]:
    """Items of the other queues that fill up the last urgent batch, if that gives a much better rate."""
    size = len(waiting.chosen)
    if not waiting.others_can or len(waiting.urgent_can) > size:
        return []
    filled = start.cost.short_size(min(size + len(waiting.others_can), start.most))
    if filled <= size or start.end(filled) > waiting.first_deadline:
        return []
    return waiting.joining(filled - size, start, size=filled)


def _due(waiting: _Waiting, start: Start, *, due_s: float) -> tuple[int, list[int]]:
    """How many urgent items stay in the batch, and the items of the other queues that are due and join it.

    They join it if that costs nothing. Once they are overdue, they take the places of the last urgent items, which wait
    for the next batch.
    """
    size, best = len(waiting.chosen), start.cost.best_size(start.most)
    one_s = start.cost.mean(best) / best
    due = int(due_s / one_s) if one_s else 0
    joining = waiting.joining(min(due, start.most - size), start, size=min(size + due, start.most))
    if joining and _costs_nothing(waiting, start, len(joining)):
        return size, joining
    if due < OVERDUE:
        return size, []
    joining = waiting.joining(min(due, best), start, size=max(size, min(due, best)))
    return max(0, size - len(joining)), joining


def _costs_nothing(waiting: _Waiting, start: Start, joins: int) -> bool:
    """Whether so many more items in the batch make no urgent item late, in the batch or behind it."""
    size = len(waiting.chosen)
    if start.end(size + joins) > waiting.first_deadline:
        return False
    taken = set(waiting.chosen)
    behind = sorted(waiting.urgent[index] for index in waiting.urgent_can[: start.looks_at] if index not in taken)
    rest = _Rest(behind, start)
    alone = rest.kept(0, start.at + start.cost.mean(size))[0]
    return rest.kept(0, start.at + start.cost.mean(size + joins), least=alone)[0] == alone
