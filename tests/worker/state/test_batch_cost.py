"""The estimated cost of a batch, from the batches measured before."""

from __future__ import annotations

import threading

import pytest

from worker.state.batch_cost import BatchCost


def test_the_estimate_is_zero_at_first() -> None:
    assert BatchCost().estimate(16) == 0.0


def test_a_size_that_was_measured_costs_the_same_again() -> None:
    cost = BatchCost()
    cost.observe(16, 0.030)
    assert cost.estimate(16) == pytest.approx(0.030)


def test_an_unseen_larger_size_is_scaled_up() -> None:
    cost = BatchCost()
    cost.observe(4, 0.010)
    assert cost.estimate(16) == pytest.approx(0.040)


def test_an_unseen_smaller_size_costs_no_more_than_the_next_larger() -> None:
    cost = BatchCost()
    cost.observe(64, 0.120)
    cost.observe(16, 0.030)
    assert 0 < cost.estimate(1) <= 0.030


def test_the_estimate_follows_gradually() -> None:
    cost = BatchCost()
    cost.observe(8, 0.010)
    cost.observe(8, 0.110)
    assert 0.010 < cost.estimate(8) < 0.060
    for _ in range(50):
        cost.observe(8, 0.110)
    assert cost.estimate(8) == pytest.approx(0.110, rel=0.01)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 16, 100, 1024])
def test_larger_batches_are_never_estimated_cheaper(size: int) -> None:
    cost = BatchCost()
    for seen, seconds in ((1, 0.004), (8, 0.020), (64, 0.150)):
        cost.observe(seen, seconds)
    assert cost.estimate(size) <= cost.estimate(size + 1)


@pytest.mark.parametrize("measured", [1, 4])
def test_an_estimate_that_is_never_measured_again_falls_to_what_other_sizes_allow(measured: int) -> None:
    """A batch of two took long once. Images that would not make it are expired, so no batch of two runs any more."""
    cost = BatchCost()
    cost.observe(2, 0.400)
    for _ in range(200):
        cost.observe(measured, 0.003)
    assert cost.estimate(2) == pytest.approx(0.006 if measured == 1 else 0.003, rel=0.02)
    assert cost.estimate(measured) == pytest.approx(0.003)


@pytest.mark.parametrize(("size", "larger"), [(5, 16), (9, 32), (3, 16)])
def test_a_right_estimate_stays_while_other_sizes_run(size: int, larger: int) -> None:
    """Sizes that are no powers of two share an estimate with a larger one, which costs more."""
    cost = BatchCost()
    cost.observe(larger, larger * 0.001)
    for _ in range(50):
        cost.observe(size, size * 0.001)
    assert cost.estimate(larger) == pytest.approx(larger * 0.001)


def test_which_sizes_were_measured() -> None:
    cost = BatchCost()
    cost.observe(1, 0.010)
    cost.observe(15, 0.100)
    assert [size for size in (1, 2, 8, 16, 32) if cost.is_measured(size)] == [1, 16]


def costing(seconds: dict[int, float]) -> BatchCost:
    cost = BatchCost()
    for size, cost_s in seconds.items():
        cost.observe(size, cost_s)
    return cost


def test_the_best_size_is_the_smallest_that_is_not_clearly_worse() -> None:
    assert BatchCost().best_size(16) == 16
    linear = costing({size: 0.005 * size for size in (1, 2, 4, 8, 16)})
    assert (linear.best_size(16), linear.size_to_try(16), linear.short_size(16)) == (1, 1, 1)
    gpu = costing({size: 0.010 + 0.0001 * size for size in (1, 2, 4, 8, 16)})
    assert [gpu.best_size(most) for most in (16, 11, 3)] == [16, 11, 3]
    overhead = costing({size: 0.0003 + 0.005 * size for size in (1, 2, 4, 8, 16)})
    assert (overhead.best_size(16), overhead.short_size(16)) == (8, 1)


def test_sizes_that_could_be_better_are_tried_one_after_the_other_and_later_again() -> None:
    cost, tried = costing({1: 0.010}), []
    while cost.size_to_try(16) > cost.best_size(16):
        tried.append(cost.size_to_try(16))
        cost.observe(tried[-1], 0.010 * tried[-1])
    assert (tried, cost.best_size(16)) == ([2, 4, 8, 16], 1)
    for _ in range(2100):
        cost.observe(1, 0.010)
    assert cost.size_to_try(16) == 2


def test_a_size_between_and_beyond_those_measured_is_estimated_from_them() -> None:
    cost = costing({1: 0.010, 2: 0.011, 8: 0.017})
    assert cost.estimate(4) <= 0.017
    assert cost.estimate(16) == pytest.approx(0.017 + 8 * 0.001)


def test_a_table_does_not_change_while_more_is_measured() -> None:
    cost = costing({1: 0.010})
    table = cost.table
    before = (table.estimate(1), table.mean(4), table.best_size(16), table.size_to_try(16))
    for _ in range(20):
        cost.observe(1, 0.100)
        cost.observe(2, 0.001)
    assert before == (table.estimate(1), table.mean(4), table.best_size(16), table.size_to_try(16))
    assert cost.best_size(16) > 1


def test_no_measurement_of_two_threads_is_lost() -> None:
    cost = BatchCost()

    def measure() -> None:
        for size in range(1, 201):
            cost.observe(size, 0.001 * size)
            assert cost.table.estimate(size) > 0

    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cost._count == 800
