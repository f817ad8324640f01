"""A whole worker in virtual time: what is in time at each load, and what bulk gets."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest

from tests.worker.steps.simulation import SimulatedJob, Simulation, Timing, arrivals

NEVER = float("inf")
LOADS = (100, 150, 300, 1000)


def linear(size: int) -> float:
    """200 images a second, whatever the size of the batch."""
    return 0.005 * size


def gpu(size: int) -> float:
    """1,379 images a second in batches of 16."""
    return 0.010 + 0.0001 * size


def offered(rate_hz: float, seconds: float, *, deadline_s: float, seed: int = 15) -> list[SimulatedJob]:
    """Jobs that come at random."""
    random_ = random.Random(seed)
    return arrivals(rate_hz, seconds, deadline_s=deadline_s, gaps=lambda: random_.expovariate(1.0))


def in_time_hz(jobs: list[SimulatedJob], *, since: float, until: float) -> float:
    """The rate of results in time of the jobs that came in this time."""
    return sum(job.outcome == "sorted" for job in jobs if since <= job.arrives_at < until) / (until - since)


# in time ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("batch_s", "capacity_hz", "decode_s", "deadline_s"),
    [(linear, 200, 0.002, 0.150), (lambda size: 0.020, 800, 0.001, 0.100), (gpu, 1379, 0.0008, 0.100)],
    ids=["linear", "constant", "affine"],
)
def test_overload_costs_at_most_a_twentieth_of_the_best_rate(
    batch_s: Callable[[int], float], capacity_hz: float, decode_s: float, deadline_s: float
) -> None:
    reached: dict[int, float] = {}
    came: dict[int, float] = {}
    for load in LOADS:
        jobs = offered(capacity_hz * load / 100, 2.5, deadline_s=deadline_s)
        Simulation(Timing(batch_s, decode_s=decode_s)).run(jobs)
        reached[load] = in_time_hz(jobs, since=0.5, until=2.3)
        came[load] = sum(0.5 <= job.arrives_at < 2.3 for job in jobs) / 1.8
        assert {job.outcome for job in jobs} <= {"sorted", "late", "expired"}, "a job has no answer"
    best = max(*reached.values(), 0.97 * capacity_hz)
    assert all(reached[load] >= 0.95 * min(best, came[load]) for load in LOADS), (reached, came)


def test_below_capacity_nothing_expires() -> None:
    jobs = offered(100, 5.0, deadline_s=0.150)
    Simulation(Timing(linear)).run(jobs)
    assert Counter(job.outcome for job in jobs) == {"sorted": len(jobs)}


@pytest.mark.parametrize("batch_s", [linear, gpu], ids=["linear", "affine"])
def test_a_job_is_late_only_if_the_engine_took_longer_than_it_was_known_to(batch_s: Callable[[int], float]) -> None:
    """The first batches measure what each size costs; from then on the engine takes what was measured."""
    jobs = offered(2000, 2.0, deadline_s=0.100)
    Simulation(Timing(batch_s, decode_s=0.0008)).run(jobs)
    late = [job for job in jobs if job.outcome == "late" and job.arrives_at > 0.2]
    assert late == []


def test_with_a_noisy_engine_few_are_late() -> None:
    noise = random.Random(3)
    jobs = offered(600, 4.0, deadline_s=0.150)
    Simulation(Timing(lambda size: linear(size) * noise.uniform(0.8, 1.2))).run(jobs)
    outcomes = Counter(job.outcome for job in jobs)
    assert outcomes["late"] <= 0.03 * outcomes["sorted"], outcomes
    assert outcomes["sorted"] >= 0.93 * 200 * 4, outcomes


def test_a_worker_recovers_after_its_engine_was_slow() -> None:
    """For a second each batch takes twenty times as long: then every image would expire by the estimates."""
    jobs = offered(150, 6.0, deadline_s=0.150)
    simulation = Simulation(Timing(linear))
    simulation.timing.batch_s = lambda size: linear(size) * (20 if 2.0 <= simulation.now < 3.0 else 1)
    simulation.run(jobs)
    assert in_time_hz(jobs, since=5.0, until=5.8) >= 0.95 * 150


def test_the_engine_never_idles_while_a_job_waits_for_it() -> None:
    simulation = Simulation(Timing(linear, between_s=0.0))
    jobs = offered(400, 3.0, deadline_s=0.150)
    simulation.run(jobs)
    idle_s = 0.0
    for (began, batch), (following, _) in itertools.pairwise(simulation.batches):
        if began > 0.5 and following < 3.0:
            idle_s += max(0.0, following - began - linear(len(batch.items)))
    assert idle_s <= 0.02 * 2.5, "the claims don't keep the engine busy"


# held ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_slow_engine_holds_few_jobs_and_a_fast_one_as_many_as_it_may() -> None:
    held: dict[str, int] = {}
    for name, batch_s in {"slow": linear, "fast": gpu}.items():
        simulation = Simulation(Timing(batch_s))
        simulation.run(offered(2000, 1.0, deadline_s=NEVER))
        held[name] = simulation.latency.enough_held(simulation.model.cost) or 0
    assert held["slow"] * 0.005 < 0.100, "what is held ages"
    assert held["fast"] >= 40


# bulk ───────────────────────────────────────────────────────────────────────────────────────────────


def backlog(count: int) -> list[SimulatedJob]:
    """Bulk jobs that wait from the start."""
    return [SimulatedJob(10_000_000 + number, "bulk", 0.0, NEVER) for number in range(count)]


@pytest.mark.parametrize(("batch_s", "decode_s"), [(linear, 0.002), (gpu, 0.0008)], ids=["linear", "affine"])
def test_bulk_gets_its_share_of_a_saturated_engine(batch_s: Callable[[int], float], decode_s: float) -> None:
    simulation = Simulation(Timing(batch_s, decode_s=decode_s), others_share=0.1)
    simulation.run([*offered(3000, 4.0, deadline_s=0.150), *backlog(3000)], until=3.9)
    bulk = total = 0.0
    for began, batch in simulation.batches:
        if began > 1.0:
            others = sum(item.admitted.claimed.lease.queue == "bulk" for item in batch.items)
            seconds = batch_s(len(batch.items))
            bulk, total = bulk + seconds * others / len(batch.items), total + seconds
    assert 0.07 <= bulk / total <= 0.12, bulk / total


def test_a_backlog_of_bulk_moves_live_by_at_most_a_batch() -> None:
    latencies: list[float] = []
    for bulk in (0, 5000):
        live = offered(40, 5.0, deadline_s=0.500)
        simulation = Simulation(Timing(linear))
        simulation.run([*live, *backlog(bulk)], until=5.6)
        assert Counter(job.outcome for job in live) == {"sorted": len(live)}
        found = sorted(job.finished_at - job.arrives_at for job in live if job.finished_at and job.arrives_at > 1.0)
        latencies.append(found[int(0.95 * len(found))])
        if bulk:
            done = sum(job.outcome == "sorted" for job in simulation.jobs.values() if job.queue == "bulk")
            assert done > 0.9 * (200 - 40) * 5, "bulk gets what live leaves"
    alone_s, beside_s = latencies
    assert beside_s - alone_s <= 0.020
