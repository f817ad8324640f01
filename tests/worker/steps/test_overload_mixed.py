"""A whole worker in virtual time, where images, queues and lines are not all alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from tests.worker.steps.simulation import SimulatedJob, Simulation, Timing
from tests.worker.steps.test_overload import NEVER, backlog, gpu, in_time_hz, linear, offered


def outcomes(jobs: Iterable[SimulatedJob], *, since: float = 0.0) -> Counter[str]:
    return Counter(job.outcome for job in jobs if job.arrives_at >= since)


# bulk that is slow ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("decode_bulk_s", "fetch_bulk_s", "deadline_s"),
    [(0.060, 0.0, 0.100), (0.060, 0.0, 0.150), (0.002, 0.060, 0.150), (0.002, 0.150, 0.300)],
)
def test_live_images_are_in_time_beside_bulk_that_is_slow_to_fetch_or_to_decode(
    decode_bulk_s: float, fetch_bulk_s: float, deadline_s: float
) -> None:
    live = offered(40, 4.0, deadline_s=deadline_s)
    simulation = Simulation(Timing(linear, decode_bulk_s=decode_bulk_s, fetch_bulk_s=fetch_bulk_s))
    simulation.run([*live, *backlog(3000)], until=4.4)
    assert outcomes(live) == {"sorted": len(live)}
    assert outcomes(simulation.jobs.values())["sorted"] > len(live) + 100, "bulk goes on too"


@pytest.mark.parametrize(("batch_s", "rate_hz"), [(linear, 600), (gpu, 3000)], ids=["linear", "affine"])
def test_a_single_bulk_image_is_not_starved_by_a_saturated_line(
    batch_s: Callable[[int], float], rate_hz: float
) -> None:
    live = offered(rate_hz, 2.5, deadline_s=0.150)
    single = SimulatedJob(10_000_000, "bulk", 1.0, NEVER)
    simulation = Simulation(Timing(batch_s, decode_s=0.0008))
    simulation.run([*live, single], until=2.4)
    assert single.outcome == "sorted" and single.finished_at is not None and single.finished_at < 1.5


# what was measured first ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seconds", [0.3, 3.0])
@pytest.mark.parametrize("step", ["claim", "decode", "batch"])
def test_a_slow_first_measurement_is_forgotten_within_half_a_second(step: str, seconds: float) -> None:
    simulation = Simulation(Timing(linear))
    if step == "claim":
        simulation.latency.observe_claim(seconds)
    elif step == "decode":
        simulation.latency.observe_decode(seconds)
    else:
        for _ in range(2):
            simulation.model.cost.observe(1, seconds)
    jobs = offered(150, 2.0, deadline_s=0.150)
    simulation.run(jobs)
    assert outcomes(jobs, since=0.5) == {"sorted": sum(job.arrives_at >= 0.5 for job in jobs)}


# lines with other deadlines ─────────────────────────────────────────────────────────────────────────


def short_line(deadline_s: float, *, since: float, until: float) -> list[SimulatedJob]:
    """Ten images a second with another deadline than those that come beside them."""
    ats = [since + number / 10 for number in range(int((until - since) * 10))]
    return [SimulatedJob(5_000_000 + number, "live", at, at + deadline_s) for number, at in enumerate(ats)]


def test_a_line_with_a_short_deadline_is_in_time_beside_a_busy_one_with_a_long_one() -> None:
    """Full batches take 74 ms: a job that had to wait for one and be in one would never be in time in 100 ms."""
    longs, shorts = offered(400, 3.0, deadline_s=2.0), short_line(0.100, since=1.0, until=3.0)
    Simulation(Timing(lambda size: 0.010 + 0.001 * size, decode_s=0.0008), max_batch=64).run([*longs, *shorts])
    assert outcomes(shorts) == {"sorted": len(shorts)}
    assert outcomes(longs) == {"sorted": len(longs)}


def test_a_line_whose_deadlines_nobody_could_keep_costs_the_others_nothing() -> None:
    reached: list[float] = []
    for hopeless in (0.0, 0.004):
        jobs = offered(2000, 2.0, deadline_s=0.150)
        beside = short_line(hopeless, since=0.0, until=2.0) if hopeless else []
        Simulation(Timing(gpu, decode_s=0.0008)).run([*jobs, *beside])
        reached.append(in_time_hz(jobs, since=0.5, until=1.8))
        assert set(outcomes(beside)) <= {"expired"}
    assert reached[1] >= 0.97 * reached[0]


# large batches, and engines that take two calls ─────────────────────────────────────────────────────


@pytest.mark.parametrize("load", [1.0, 3.0])
@pytest.mark.parametrize(("max_batch", "engine_calls"), [(64, 1), (64, 2), (16, 2), (256, 1)])
def test_a_fast_engine_is_kept_busy(max_batch: int, engine_calls: int, load: float) -> None:
    """Each batch is copied first; an engine that takes two calls does that while it computes the one before."""

    def batch_s(size: int) -> float:
        return 0.015 + 0.0004 * size

    copy_s = 0.004
    capacity_hz = max_batch / (batch_s(max_batch) + (copy_s if engine_calls == 1 else 0.0))
    timing = Timing(batch_s, decode_s=0.0001, copy_s=copy_s)
    simulation = Simulation(timing, max_batch=max_batch, engine_calls=engine_calls)
    jobs = offered(capacity_hz * load, 1.3, deadline_s=0.400)
    simulation.run(jobs)
    came_hz = sum(0.4 <= job.arrives_at < 0.9 for job in jobs) / 0.5
    assert in_time_hz(jobs, since=0.4, until=0.9) >= 0.95 * min(capacity_hz, came_hz)
    assert not outcomes(jobs, since=0.5)["late"]
    if load > 1:
        sizes = [len(batch.items) for began, batch in simulation.batches if began > 0.5 and batch.items]
        assert max(sizes) > 0.9 * max_batch


# what is claimed ────────────────────────────────────────────────────────────────────────────────────


def test_few_jobs_that_are_claimed_under_steady_load_expire_in_the_worker() -> None:
    """Their images were fetched and decoded for nothing; the claim sets those apart that it knows of."""
    simulation = Simulation(Timing(linear))
    jobs = offered(400, 3.0, deadline_s=0.150)
    simulation.run(jobs)
    started = sum(len(batch.items) for _, batch in simulation.batches)
    expired = sum(len(batch.expired) for _, batch in simulation.batches)
    assert expired <= 0.06 * started
