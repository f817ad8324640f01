"""Which items the next batch takes, compared with the best that could be done."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import pytest

from worker.state.batch_cost import BatchCost
from worker.state.latency_estimator import FINISH_MARGIN_S
from worker.steps.batch_plan import Plan, Start, plan_batch

NEVER = float("inf")
SHAPES: dict[str, Callable[[int], float]] = {
    "linear": lambda size: 0.005 * size,
    "constant": lambda size: 0.010,
    "affine": lambda size: 0.008 + 0.002 * size,
    "in steps of two": lambda size: 0.007 * ((size + 1) // 2),
    "dear beyond four": lambda size: 0.010 if size <= 4 else 0.050,
}


def measured(shape: Callable[[int], float], *, most: int = 8) -> BatchCost:
    cost = BatchCost()
    for size in range(1, most + 1):
        cost.observe(size, shape(size))
    return cost


def in_time(margin_s: float) -> float:
    """A deadline that leaves this much beyond the reserve for deciding and finishing."""
    return margin_s + FINISH_MARGIN_S + 1e-9


def planned(deadlines: list[float], shape: str, *, others: int = 0, most: int = 8, **options: float) -> Plan:
    start = Start(0.0, measured(SHAPES[shape], most=most), most)
    return plan_batch(deadlines, [NEVER] * others, start, others_due_s=options.get("due_s", 0.0))


# sizes ──────────────────────────────────────────────────────────────────────────────────────────────


def test_an_engine_that_gains_nothing_from_a_batch_gets_single_images() -> None:
    assert planned([NEVER] * 8, "linear").urgent == [0]


def test_an_engine_whose_batch_costs_as_much_as_an_image_gets_all() -> None:
    assert planned([NEVER] * 8, "constant").urgent == list(range(8))


def test_a_batch_is_as_small_as_its_earliest_deadline_demands() -> None:
    plan = planned([in_time(0.012), *[NEVER] * 7], "affine")
    assert (plan.urgent, plan.expired_urgent) == ([0, 1], [])


def test_a_hopeless_item_expires_and_does_not_shrink_the_batch() -> None:
    plan = planned([in_time(0.009), *[NEVER] * 7], "constant")
    assert (plan.urgent, plan.expired_urgent) == (list(range(1, 8)), [0])


def test_an_item_that_would_cost_the_others_their_deadlines_is_left_out() -> None:
    """A batch for the first item alone would take as long as one for the seven behind it."""
    plan = planned([in_time(0.010), *[in_time(0.024)] * 7], "affine", most=8)
    assert plan.urgent == list(range(1, 8))


def test_an_idle_engine_tries_the_item_with_the_most_time_left() -> None:
    start = Start(0.0, measured(SHAPES["linear"]), 8)
    assert plan_batch([0.001, 0.003, 0.002], [], start, tries=True) == Plan((1,), (), [0, 2], [])
    assert plan_batch([0.001, 0.003], [], start) == Plan((), [], [0, 1], [])
    assert plan_batch([-0.001], [], start, tries=True) == Plan((), (), [0], []), "its deadline has passed"


# the other queues ───────────────────────────────────────────────────────────────────────────────────


def test_others_fill_a_batch_that_gets_a_better_rate_by_it() -> None:
    assert planned([NEVER] * 2, "constant", others=9).others == list(range(6))
    assert planned([NEVER], "linear", others=9).others == []


def test_others_do_not_cost_an_urgent_item_its_deadline() -> None:
    plan = planned([in_time(0.011)], "affine", others=9, due_s=0.004)
    assert (plan.urgent, plan.others) == ([0], [])


def test_others_that_are_long_due_take_the_places_of_the_last_urgent_items() -> None:
    deadlines = [in_time(0.010)] * 8
    plan = planned(deadlines, "constant", others=9, due_s=2 * 0.010 / 8 + 1e-9)
    assert (plan.urgent, plan.others) == (list(range(6)), [0, 1])


def test_without_urgent_items_the_others_have_the_engine() -> None:
    assert planned([], "constant", others=9).others == list(range(8))


# properties ─────────────────────────────────────────────────────────────────────────────────────────


def best_possible(deadlines: tuple[float, ...], shape: Callable[[int], float], *, most: int) -> int:
    """The most jobs in time over all sequences of batches, by trying all of them."""

    @functools.cache
    def best(index: int, at: float) -> int:
        """Of the jobs from `index` on, in the order of their deadlines: each is in this batch, or in none."""
        found = 0
        for size in range(1, most + 1):
            ends_at = at + shape(size)
            able = [each for each in range(index, len(deadlines)) if deadlines[each] >= ends_at + FINISH_MARGIN_S]
            if len(able) >= size:
                found = max(found, size + best(able[size - 1] + 1, ends_at))
        return found

    return best(0, 0.0)


def carried_out(deadlines: list[float], shape: Callable[[int], float], *, most: int) -> int:
    """How many jobs are in time if each batch is the planned one."""
    cost, at, done = measured(shape, most=most), 0.0, 0
    while deadlines:
        plan = plan_batch(deadlines, [], Start(at, cost, most))
        ends_at = at + shape(len(plan.urgent)) if plan.urgent else at
        for index in plan.urgent:
            assert deadlines[index] >= ends_at + FINISH_MARGIN_S - 1e-9, "an item was started that could not be in time"
        for index in plan.expired_urgent:
            assert deadlines[index] < at + shape(1) + FINISH_MARGIN_S, "an item expired that could be in time"
        assert plan.urgent or plan.expired_urgent, "the engine idles while items wait"
        done, at = done + len(plan.urgent), ends_at
        gone = {*plan.urgent, *plan.expired_urgent}
        deadlines = [deadline for index, deadline in enumerate(deadlines) if index not in gone]
    return done


@pytest.mark.parametrize("shape", SHAPES)
def test_with_all_jobs_known_nearly_as_many_are_in_time_as_possible(shape: str) -> None:
    """Of small cases, by an exhaustive search: within 5 % over all cases, and never more than one job less."""
    random_ = random.Random(15)
    possible = reached = 0
    for _ in range(300):
        most = random_.choice([2, 4, 8])
        horizon_s = random_.choice([0.02, 0.04, 0.08])
        deadlines = sorted(random_.uniform(0.005, horizon_s) for _ in range(random_.randint(1, 7)))
        best = best_possible(tuple(deadlines), SHAPES[shape], most=most)
        done = carried_out(deadlines, SHAPES[shape], most=most)
        assert best - 1 <= done <= best, f"{done} of {best} with {deadlines} and at most {most}"
        possible, reached = possible + best, reached + done
    assert reached >= 0.95 * possible, f"{reached / possible:.3f} of what is possible"
