"""The estimate of what a worker can do, at any load, against a simulated worker whose capacity is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.worker.state.simulated_worker import MAX_BATCH, Machine, SimulatedWorker, true_capacity
from worker.state.batch_cost import BatchCost
from worker.state.capacity import CapacityEstimator, has_backlog

MACHINES = {
    "image by image": Machine(batch_s=lambda size: 0.005 * size),
    "single images are slow": Machine(batch_s=lambda size: 0.018 + 0.001 * size, decode_threads=8),
    "decoding is slow": Machine(batch_s=lambda size: 0.004 + 0.0005 * size, decode_s=0.040),
    "much between batches": Machine(batch_s=lambda size: 0.010 + 0.003 * size, between_s=0.030),
    "shared cores": Machine(batch_s=lambda size: 0.005 * size, decode_s=0.006, cores=2, model_cores=2),
}
# Without other work, or beside work that the running means contain, the ceiling is the capacity.
PLAIN = ("image by image", "single images are slow", "decoding is slow")
CAPACITY = {name: true_capacity(machine) for name, machine in MACHINES.items()}


@pytest.mark.parametrize("load", [1.3, 10])
@pytest.mark.parametrize("name", MACHINES)
def test_under_saturation_it_is_what_the_worker_does(name: str, load: float) -> None:
    worker = SimulatedWorker(MACHINES[name])
    assert worker.run(40, images_per_s=load * CAPACITY[name]) == pytest.approx(CAPACITY[name], rel=0.1)


SLOW = {
    "5 ms an image": Machine(batch_s=lambda size: 0.005 * size, between_s=0.001),
    "20 ms an image": Machine(batch_s=lambda size: 0.020 * size, between_s=0.005),
}


@pytest.mark.parametrize("load", [1.2, 1.5, 3])
@pytest.mark.parametrize("are_refused", [False, True], ids=["expired", "refused"])
@pytest.mark.parametrize("name", SLOW)
def test_tight_deadlines_don_t_hide_saturation(name: str, are_refused: bool, load: float) -> None:
    """Few jobs or none wait then, and a worker with a slow engine holds few: the others expire, or are refused."""
    worker = SimulatedWorker(SLOW[name], max_waiting=1, are_refused=are_refused)
    estimate = worker.run(60, images_per_s=load * true_capacity(SLOW[name]))
    assert sum(worker.backlogs) / len(worker.backlogs) > (0.4 if load < 1.3 else 0.7)
    assert estimate == pytest.approx(true_capacity(SLOW[name]), rel=0.1)


@pytest.mark.parametrize("name", SLOW)
def test_a_worker_that_keeps_up_is_not_saturated(name: str) -> None:
    worker = SimulatedWorker(SLOW[name], max_waiting=1)
    worker.run(60, images_per_s=0.7 * true_capacity(SLOW[name]))
    assert sum(worker.backlogs) / len(worker.backlogs) < 0.05


@pytest.mark.parametrize(
    ("waiting", "taken", "is_shedding", "expected"),
    [
        (0, 5, False, False),  # full, and nothing more comes
        (1, 5, False, True),
        (1, 4, False, True),  # between two claims
        (1, 3, True, False),  # on its way
        (0, 4, True, True),  # deadlines keep the queue empty
        (15, 0, False, False),
        (16, 0, False, True),  # something else than decoding and model limits it
    ],
)
def test_a_backlog_is_what_a_full_worker_cannot_take(
    waiting: int, taken: int, is_shedding: bool, expected: bool
) -> None:
    found = has_backlog(waiting=waiting, taken=taken, places=5, max_batch=16, is_shedding=is_shedding)
    assert found is expected


@pytest.mark.parametrize("load", [0, 0.05, 0.5])
@pytest.mark.parametrize("name", MACHINES)
def test_afterwards_it_stays_at_any_load(name: str, load: float) -> None:
    worker = SimulatedWorker(MACHINES[name])
    worker.run(40, images_per_s=3 * CAPACITY[name])
    assert worker.run(60, images_per_s=load * CAPACITY[name]) == pytest.approx(CAPACITY[name], rel=0.1)


@pytest.mark.parametrize("load", [0.05, 0.5])
@pytest.mark.parametrize("name", PLAIN)
def test_a_worker_that_was_never_saturated_gives_its_ceiling(name: str, load: float) -> None:
    worker = SimulatedWorker(MACHINES[name])
    assert worker.run(60, images_per_s=load * CAPACITY[name]) == pytest.approx(CAPACITY[name], rel=0.1)


def test_bursts_are_no_saturation() -> None:
    """Jobs wait at nearly every report, but in between the worker has nothing to do."""
    machine = MACHINES["image by image"]
    worker = SimulatedWorker(machine)
    worker.run(40, images_per_s=600)
    assert worker.run(100, images_per_s=60, burst=60) == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize("factor", [0.5, 3.0])
@pytest.mark.parametrize("load", [0.3, 3])
@pytest.mark.parametrize("name", ["image by image", "single images are slow", "much between batches"])
def test_it_follows_a_model_that_is_swapped_in(name: str, load: float, factor: float) -> None:
    """Also while few images arrive: the ratio of the ceilings says enough."""
    machine = MACHINES[name]
    batch_s = machine.batch_s
    swapped = replace(machine, batch_s=lambda size: factor * batch_s(size), between_s=factor * machine.between_s)
    capacity = true_capacity(swapped)
    worker = SimulatedWorker(machine)
    worker.run(40, images_per_s=3 * CAPACITY[name])
    worker.swap(swapped)
    assert worker.estimate == pytest.approx(capacity, rel=0.1)
    images_per_s = load * min(capacity, CAPACITY[name])
    worker.run(30, images_per_s=images_per_s)
    before = worker.served
    estimate = worker.run(30, images_per_s=images_per_s)
    if load > 1:  # its batches need not be those of a worker that has measured all sizes
        capacity = (worker.served - before) / 30
    assert estimate == pytest.approx(capacity, rel=0.1)


def test_it_follows_a_machine_that_becomes_slower_or_faster_under_load() -> None:
    worker = SimulatedWorker(MACHINES["image by image"])
    worker.run(40, images_per_s=1000)
    worker.machine = Machine(batch_s=lambda size: 0.012 * size)
    slow = true_capacity(worker.machine)
    assert worker.run(60, images_per_s=1000) == pytest.approx(slow, rel=0.1)
    worker.machine = MACHINES["image by image"]
    assert worker.run(60, images_per_s=1000) == pytest.approx(200, rel=0.1)


def test_it_falls_with_the_costs_before_the_worker_is_saturated() -> None:
    worker = SimulatedWorker(MACHINES["image by image"])
    worker.run(40, images_per_s=1000)
    worker.machine = Machine(batch_s=lambda size: 0.005 * size, decode_s=0.040)  # larger images, 50 per second
    assert worker.run(30, images_per_s=25) == pytest.approx(50, rel=0.1)


def test_a_worker_that_does_more_than_the_estimate_raises_it() -> None:
    """Large images saturated it, then small ones come: not enough of them to saturate it."""
    worker = SimulatedWorker(Machine(batch_s=lambda size: 0.005 * size, decode_s=0.040))
    assert worker.run(40, images_per_s=1000) == pytest.approx(50, rel=0.1)
    worker.machine = MACHINES["image by image"]
    served = worker.run(60, images_per_s=150)
    assert 140 <= served <= 210
    assert worker.rest(20) >= 140, "it has forgotten what it could do"
    # Not closer: a batch of 13 counts as a full one in BatchCost.
    assert worker.rest(4 * 3600) == pytest.approx(200, rel=0.15), "it never learns of small images"


def test_it_is_finite_and_above_zero_whatever_was_measured() -> None:
    now = [0.0]
    estimator = CapacityEstimator(queues=["live"], max_batch=4, decode_threads=2, bulk_share=0.05, clock=lambda: now[0])
    unknown, hung = BatchCost(), BatchCost()
    hung.observe(4, 1e12)
    for cost, decode_s in ((unknown, 0.0), (hung, 0.0), (unknown, 1e12), (unknown, 1e-12)):
        for step_s in (0.0, 1e-9, 1.0, 1e6):
            for is_pressed in (True, True, False):
                now[0] += step_s
                estimator.observe(cost, decode_s=decode_s, has_backlog=is_pressed)
                rate = estimator.images_per_s(cost, decode_s=decode_s)
                assert math.isfinite(rate) and rate > 0


def test_a_worker_that_is_stuck_can_do_less_and_less() -> None:
    worker = SimulatedWorker(MACHINES["image by image"])
    worker.run(30, images_per_s=1000)
    for _ in range(60):
        worker.now += 1
        worker.estimator.observe(worker.cost, decode_s=worker.decode_s, has_backlog=True)
    assert 0 < worker.estimate < 10


def test_a_window_in_which_the_server_was_away_teaches_nothing() -> None:
    worker = SimulatedWorker(MACHINES["image by image"])
    before = worker.run(30, images_per_s=1000)
    for _ in range(60):
        worker.now += 1
        worker.estimator.discard_window()
    worker.estimator.observe(worker.cost, decode_s=worker.decode_s, has_backlog=True)
    assert worker.estimate == pytest.approx(before, rel=0.01)


def test_the_other_queues_get_what_the_most_urgent_one_leaves_or_their_share() -> None:
    worker = SimulatedWorker(MACHINES["image by image"])
    estimator = worker.estimator
    assert estimator.by_queue(200.0) == {"live": 200.0, "bulk": 200.0}
    worker.run(60, images_per_s=150)
    assert estimator.by_queue(200.0) == {"live": 200.0, "bulk": pytest.approx(50, rel=0.1)}
    worker.run(60, images_per_s=1000)
    assert estimator.by_queue(200.0) == {"live": 200.0, "bulk": pytest.approx(10, abs=5)}


def test_a_queue_gains_by_cached_answers_and_the_model_does_not() -> None:
    worker = SimulatedWorker(MACHINES["image by image"])
    estimator = worker.estimator
    for _ in range(60):
        estimator.count_sorted("bulk", 60)
        estimator.count_cached("bulk", 60)
        worker.rest(1)
    assert worker.estimate == pytest.approx(200, rel=0.1)
    assert estimator.by_queue(200.0) == {"live": 200.0, "bulk": pytest.approx(400, rel=0.05)}


def test_a_folder_that_is_sent_again_raises_a_queue_at_most_fourfold_and_not_for_long() -> None:
    worker = SimulatedWorker(MACHINES["image by image"])
    estimator = worker.estimator
    for _ in range(60):
        estimator.count_cached("bulk", 5000)
        worker.rest(1)
    assert worker.estimate == pytest.approx(200, rel=0.1)
    assert estimator.by_queue(200.0) == {"live": 200.0, "bulk": 800.0}
    worker.rest(600)
    assert estimator.by_queue(200.0)["bulk"] == pytest.approx(200, rel=0.01), "the next folder may be a new one"


def test_a_model_that_has_run_no_full_batch_is_compared_by_its_single_images() -> None:
    """As if it gained as much from full batches as the model before it: LiteRT runs an image on each thread."""
    before, swapped_in = BatchCost(), BatchCost()
    before.observe(1, 0.010)
    before.observe(MAX_BATCH, 0.080)
    swapped_in.observe(1, 0.020)
    estimator = CapacityEstimator(queues=["live"], max_batch=MAX_BATCH, decode_threads=2, bulk_share=0.05)
    assert estimator.images_per_s(before, decode_s=0.0) == pytest.approx(200)
    assert estimator.images_per_s(swapped_in, decode_s=0.0) == pytest.approx(100)
    swapped_in.observe(MAX_BATCH, 0.120)
    assert estimator.images_per_s(swapped_in, decode_s=0.0) == pytest.approx(MAX_BATCH / 0.120)
