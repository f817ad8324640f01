"""The estimate of how long a job still needs, from the recent times of the steps."""

from __future__ import annotations

import threading

import pytest
import redis

from shared.settings import Settings
from tests.kit import ManualClock
from tests.worker import kit
from tests.worker.kit import Gate, ToneEngine, frame
from worker.state.batch_cost import BatchCost
from worker.state.latency_estimator import FINISH_MARGIN_S, TRY_AFTER_S, LatencyEstimator


@pytest.fixture
def cost() -> BatchCost:
    cost = BatchCost()
    for size, cost_s in {1: 0.010, 2: 0.020, 4: 0.040}.items():
        cost.observe(size, cost_s)
    return cost


def test_the_estimate_is_zero_while_nothing_is_under_way(cost: BatchCost) -> None:
    estimator = LatencyEstimator(max_batch=4)
    estimator.observe_decode(10.0)
    assert estimator.estimate_from_decode(cost, waiting=0) == 0.0
    assert estimator.estimate_from_claim(cost, undecoded=0, decoded=0) == 0.0
    assert estimator.tries


def test_right_after_a_batch_the_estimate_is_what_was_measured(cost: BatchCost) -> None:
    clock = ManualClock()
    estimator = LatencyEstimator(max_batch=4, clock=clock)
    estimator.observe_decode(0.005)
    with estimator.running(cost, images=1):
        clock.now += 0.010
    expected_s = pytest.approx(0.005 + 0.010 + FINISH_MARGIN_S)
    assert estimator.estimate_from_decode(cost, waiting=0) == expected_s
    assert estimator.estimate_from_claim(cost, undecoded=0, decoded=0) == expected_s
    clock.now += TRY_AFTER_S
    assert estimator.estimate_from_decode(cost, waiting=0) == 0.0, "an idle worker tries"


def test_a_claim_counts_what_goes_before_it(cost: BatchCost) -> None:
    clock = ManualClock()
    estimator = LatencyEstimator(max_batch=4, clock=clock)
    estimator.observe_decode(0.004)
    estimator.observe_claim(0.002)
    with estimator.running(cost, images=4):
        needs_s = estimator.estimate_from_claim(cost, undecoded=0, decoded=3)
        assert needs_s == pytest.approx(0.040 + 3 * 0.010 + 0.010 + FINISH_MARGIN_S)
        clock.now += 0.040
        behind = estimator.estimate_from_claim(cost, undecoded=20, decoded=0)
        assert behind >= 0.002 + 21 * 0.004 + 0.010, "one thread decodes all that was claimed before"


def test_a_busy_worker_needs_another_batch_and_its_own(cost: BatchCost) -> None:
    estimator = LatencyEstimator(max_batch=4)
    assert estimator.busy_s(BatchCost()) == 0.0
    estimator.observe_decode(0.003)
    assert estimator.busy_s(cost) == pytest.approx(0.010 + 0.010 + FINISH_MARGIN_S)


def test_enough_is_held_to_keep_engine_and_decoders_busy(cost: BatchCost) -> None:
    estimator = LatencyEstimator(max_batch=4)
    assert estimator.enough_held(BatchCost()) is None
    few = estimator.enough_held(cost)
    assert few is not None and 2 <= few <= 6, "100 images a second, one at a time"
    estimator.observe_decode(0.100)
    more = estimator.enough_held(cost)
    assert more is not None and few < more, "while one image is decoded, others are run"


def test_waiting_images_are_run_before_it_in_batches_of_the_best_size(cost: BatchCost) -> None:
    estimator = LatencyEstimator(max_batch=4)
    assert estimator.estimate_from_decode(cost, waiting=1) == pytest.approx(0.010 + 0.010 + FINISH_MARGIN_S)
    assert estimator.estimate_from_decode(cost, waiting=9) == pytest.approx(9 * 0.010 + 0.010 + FINISH_MARGIN_S)


def test_decoding_goes_on_beside_the_batch_in_the_model(cost: BatchCost) -> None:
    clock = ManualClock()
    estimator = LatencyEstimator(max_batch=4, clock=clock)
    estimator.observe_decode(0.005)
    with estimator.running(cost, images=4):
        clock.now += 0.010
        assert estimator.estimate_from_decode(cost, waiting=0) == pytest.approx(0.030 + 0.010 + FINISH_MARGIN_S)
        clock.now += 0.028
        assert estimator.estimate_from_decode(cost, waiting=0) == pytest.approx(0.005 + 0.010 + FINISH_MARGIN_S)
        clock.now += 1.0  # the batch is overdue, which doesn't lower the estimate
        assert estimator.estimate_from_decode(cost, waiting=0) == pytest.approx(0.005 + 0.010 + FINISH_MARGIN_S)


def test_a_batch_behind_another_costs_only_its_time_after_that_one(cost: BatchCost) -> None:
    clock = ManualClock()
    estimator = LatencyEstimator(max_batch=4, clock=clock)

    def second() -> None:
        with estimator.running(cost, images=2):
            both_in.wait()
            first_out.wait()
            clock.now += 0.020

    both_in, first_out = threading.Barrier(2, timeout=kit.PATIENCE_S), threading.Barrier(2, timeout=kit.PATIENCE_S)
    behind = threading.Thread(target=second)
    with estimator.running(cost, images=4):
        assert estimator.estimate_from_batch(cost, images=1) == pytest.approx(0.050 + FINISH_MARGIN_S)
        behind.start()
        both_in.wait()
        assert estimator.estimate_from_batch(cost, images=1) == pytest.approx(0.070 + FINISH_MARGIN_S)
        clock.now += 0.040
    first_out.wait()
    behind.join()
    assert (cost.estimate(4), cost.estimate(2)) == (pytest.approx(0.040), pytest.approx(0.020))


def test_the_time_of_a_batch_that_was_overtaken_is_not_measured(cost: BatchCost) -> None:
    clock = ManualClock()
    estimator = LatencyEstimator(max_batch=4, clock=clock)
    with estimator.running(cost, images=4):
        clock.now += 0.040
        behind = threading.Thread(target=lambda: _run_through(estimator, cost, clock))
        behind.start()
        behind.join()
        clock.now += 0.001
    assert cost.estimate(4) == pytest.approx(0.040)
    assert cost.estimate(1) == pytest.approx(0.010)


def _run_through(estimator: LatencyEstimator, cost: BatchCost, clock: ManualClock) -> None:
    with estimator.running(cost, images=1):
        clock.now += 0.010


def test_one_slow_frame_changes_the_estimate_little(cost: BatchCost) -> None:
    estimator = LatencyEstimator(max_batch=4)
    for _ in range(10):
        estimator.observe_decode(0.002)
    estimator.observe_decode(0.100)
    assert estimator.estimate_from_decode(cost, waiting=1) < 0.002 + 0.100 / 10 + 0.020 + FINISH_MARGIN_S


def test_a_batch_takes_the_cost_of_its_size(cost: BatchCost) -> None:
    estimator = LatencyEstimator(max_batch=4)
    assert estimator.estimate_from_batch(cost, images=4) == pytest.approx(0.040 + FINISH_MARGIN_S)
    assert estimator.estimate_from_batch(cost, images=1) == pytest.approx(0.010 + FINISH_MARGIN_S)


def test_a_job_that_can_not_be_answered_in_time_expires_before_it_costs_anything(
    settings: Settings, client: redis.Redis
) -> None:
    """The model is busy for two hours, so no job behind it can be in time, although no deadline has passed yet."""
    gate = Gate()
    components = kit.pipeline_components(settings, ToneEngine(gate))
    components.active_models.current.stable.cost.observe(1, 7200.0)
    (first,) = kit.submit(settings, frame(deadline_ms=3_600_000))
    run = kit.pipeline(settings, components, burst=True)
    run.start()
    assert gate.entered.wait(kit.PATIENCE_S)
    behind = kit.submit(settings, *[frame(deadline_ms=3_600_000) for _ in range(5)])
    kit.wait_until(
        lambda: len(kit.outcomes(client)) == 5, "the jobs behind are answered while the first is in the model"
    )
    gate.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys(behind, "expired") | {first: "sorted"}
    assert all(result.deadline_margin_ms > 0 for result in kit.stream(client) if result.deadline_margin_ms)


def test_what_bulk_takes_does_not_count_for_live(cost: BatchCost) -> None:
    estimator = LatencyEstimator(max_batch=4)
    for urgent, seconds in ((True, 0.002), (False, 0.500), (False, 0.500)):
        estimator.observe_claim(seconds, urgent=urgent)
        estimator.observe_decode(seconds, urgent=urgent)
    assert estimator.busy_s(cost) < 0.050
    assert estimator.estimate_from_claim(cost, undecoded=1, decoded=0) < 0.050
    assert estimator.estimate_from_decode(cost, waiting=1) < 0.050
    assert estimator.estimate_from_decode(cost, waiting=1, urgent=False) > 0.500
    assert estimator.decode_s > 0.002, "the worker's capacity follows from all images"
    assert (estimator.enough_held(cost) or 0) > 4, "the engine must not idle while bulk is fetched and decoded"


def test_an_engine_that_takes_two_calls_is_given_another_batch() -> None:
    cost = BatchCost()
    for size in (1, 2, 4):
        cost.observe(size, 0.010)
    estimator = LatencyEstimator(max_batch=4)
    one, two = (estimator.enough_held(cost, engine_calls=calls) for calls in (1, 2))
    assert one is not None and two == one + 4


def test_a_budget_that_nobody_could_keep_is_ignored(cost: BatchCost) -> None:
    estimator = LatencyEstimator(max_batch=4)
    estimator.observe_claim(0.002)
    estimator.observe_decode(0.002)
    estimator.observe_budget(0.200)
    estimator.estimate_from_claim(cost, undecoded=1, decoded=0)
    estimator.observe_budget(0.015)
    assert estimator._budget.seconds == 0.200
    estimator.observe_budget(0.030)
    assert estimator._budget.seconds == 0.030
