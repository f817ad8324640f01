"""Whatever comes, and whatever the engine is like: what must hold for a worker in virtual time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from tests.worker.steps.simulation import SimulatedJob, Simulation, Timing

# After this time the worker has measured its engine.
SETTLED_S = 1.0
# How long an engine may be idle although a decoded image waits: the worker looks for images that are being decoded.
IDLE_S = 0.004


def some_jobs(random_: random.Random, queue: str, *, rate_hz: float, seconds: float, first: int) -> list[SimulatedJob]:
    """Jobs that come at random, with a few different deadlines or none."""
    budgets = random_.sample([0.060, 0.100, 0.150, 0.400, 2.0, math.inf], 3)
    jobs: list[SimulatedJob] = []
    at = random_.expovariate(rate_hz)
    while at < seconds:
        jobs.append(SimulatedJob(first + len(jobs), queue, at, at + random_.choice(budgets)))
        at += random_.expovariate(rate_hz)
    return jobs


def some_engine(random_: random.Random) -> Callable[[int], float]:
    fixed_s, image_s = random_.choice([(0.0, 0.005), (0.010, 0.0001), (0.020, 0.0), (0.008, 0.002), (0.002, 0.004)])
    return lambda size: fixed_s + image_s * size


def idle_s(simulation: Simulation, since: float, until: float) -> float:
    """How long the engine was idle within this time."""
    busy_s, at = 0.0, since
    for began, ended in simulation.busy:
        began, ended = max(began, at), min(ended + simulation.timing.between_s, until)
        if ended > began:
            busy_s, at = busy_s + ended - began, ended
    return until - since - busy_s


@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes(seed: int) -> None:
    """Each job is answered once. None is late. None expires for which the engine could have been started in time."""
    random_ = random.Random(seed)
    batch_s, max_batch = some_engine(random_), random_.choice([4, 16, 32])
    timing = Timing(batch_s, decode_s=0.0008, decode_bulk_s=random_.choice([0.0008, 0.030]))
    timing.fetch_bulk_s = random_.choice([0.0, 0.050])
    capacity_hz = max_batch / batch_s(max_batch)
    live_hz, bulk_hz = capacity_hz * random_.choice([0.3, 0.8, 1.5, 3.0]), capacity_hz * random_.choice([0.0, 0.5, 1.5])
    jobs = some_jobs(random_, "live", rate_hz=live_hz, seconds=2.5, first=0)
    if bulk_hz:
        jobs += some_jobs(random_, "bulk", rate_hz=bulk_hz, seconds=2.5, first=10_000_000)
    simulation = Simulation(timing, max_batch=max_batch, others_share=random_.choice([0.05, 0.3]))
    simulation.run(jobs)
    assert {job.outcome for job in jobs} <= {"sorted", "late", "expired"}, "a job has no answer"
    late = [job for job in jobs if job.outcome == "late" and job.arrives_at > SETTLED_S]
    assert not late, "an image was run although it could not be in time"
    for job in jobs:
        if job.outcome == "expired" and job.decoded_at is not None and job.decoded_at > SETTLED_S:
            assert job.finished_at is not None
            assert idle_s(simulation, job.decoded_at, job.finished_at) <= IDLE_S, (
                "the engine idled, and an image expired"
            )


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize("engine", range(5))
def test_the_others_get_their_share_of_any_saturated_engine(share: float, engine: int) -> None:
    batch_s = [(0.0, 0.005), (0.010, 0.0001), (0.020, 0.0), (0.008, 0.002), (0.002, 0.004)][engine]
    simulation = Simulation(Timing(lambda size: batch_s[0] + batch_s[1] * size, decode_s=0.0004), others_share=share)
    random_ = random.Random(engine)
    live = some_jobs(random_, "live", rate_hz=4000, seconds=3.0, first=0)
    bulk = [SimulatedJob(10_000_000 + number, "bulk", 0.0, math.inf) for number in range(2000)]
    simulation.run([*live, *bulk], until=2.9)
    others = total = 0.0
    for (began, batch), (_, ended) in zip(simulation.batches, simulation.busy, strict=True):
        if began > SETTLED_S:
            count = sum(item.admitted.claimed.lease.queue == "bulk" for item in batch.items)
            others, total = others + (ended - began) * count / len(batch.items), total + ended - began
    assert 0.8 * share <= others / total <= 1.2 * share + 0.01, others / total
