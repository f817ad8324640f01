"""The policies in virtual time: every image ends, and each policy does what its description says."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from bench.benchmarks.policies import (
    CAMERAS,
    ENGINES,
    LOADS,
    PATTERNS,
    arrivals_at,
    bench_policies,
    poisson,
    regular,
    simulate,
)
from bench.contenders.batch_policies import Arrival, Decision, Fifo, FixedBatch
from bench.contenders.sortline_policy import SortlinePolicy
from bench.engines.simulated import FIXED_RATE, GPU_LIKE, BatchTime
from shared.errors import Transient
from shared.settings import Settings

# A batch takes 10 ms and each image 10 ms more, so that times can be worked out by hand.
TENS = BatchTime(batch_ms=10.0, image_ms=10.0)


def at_ms(*times_ms: float, deadline_ms: float = 1000.0) -> list[Arrival]:
    return arrivals_at([each / 1000 for each in times_ms], deadline_s=deadline_ms / 1000)


def run_ms(policy: Fifo | SortlinePolicy, arrivals: Sequence[Arrival], engine: BatchTime = TENS) -> list[float]:
    return [round(each, 3) for each in sorted(simulate(policy, arrivals, engine).times_ms)]


def test_fifo_takes_what_waits_when_the_engine_is_free() -> None:
    """The first runs alone from 0 to 20 ms, then the two that came meanwhile, together, to 50 ms."""
    arrivals = at_ms(0, 5, 15)
    assert run_ms(Fifo(max_batch=16), arrivals) == [20, 35, 45]
    found = simulate(Fifo(max_batch=1), arrivals, TENS)
    assert found.batches == 3


def test_a_fixed_batch_waits_for_more_or_for_its_time_and_then_for_the_engine() -> None:
    """The first two fill a batch at 5 ms. The third waits for its linger time, from 6 to 106 ms."""
    policy = FixedBatch(max_batch=2, linger_s=0.1)
    assert run_ms(policy, at_ms(0, 5, 6)) == [30, 35, 120]
    # Here it is the engine that it waits for: the first batch ends at 35 ms.
    assert run_ms(FixedBatch(max_batch=2, linger_s=0.01), at_ms(0, 5, 6)) == [30, 35, 49]


def test_those_that_give_nothing_up_run_everything_however_late() -> None:
    arrivals = at_ms(*range(50), deadline_ms=100)
    for policy in (Fifo(max_batch=4), FixedBatch(max_batch=4, linger_s=0.01)):
        found = simulate(policy, arrivals, TENS)
        assert (found.given_up, found.late + len(found.times_ms)) == (0, 50)
        assert found.late > 40


def test_sortline_gives_up_what_it_could_only_answer_late(settings: Settings) -> None:
    found = simulate(SortlinePolicy(settings, FIXED_RATE), at_ms(*range(500), deadline_ms=100), FIXED_RATE)
    assert found.given_up > 300
    assert len(found.times_ms) > found.late
    assert len(found.times_ms) + found.late + found.given_up == 500


@pytest.mark.parametrize("pattern", PATTERNS)
def test_sortline_loses_hardly_any_of_the_engine_to_overload(settings: Settings, pattern: str) -> None:
    """With a batch that costs a lot: the imitation must claim and batch in the worker's order to do as it does."""
    rate_hz = GPU_LIKE.full_rate(settings.max_batch)
    times = PATTERNS[pattern](random.Random(15), 1.5 * rate_hz, 4.0)
    found = simulate(SortlinePolicy(settings, GPU_LIKE), arrivals_at(times, deadline_s=0.150), GPU_LIKE)
    assert len(found.times_ms) >= 0.95 * rate_hz * 4.0
    assert len(found.times_ms) / found.batches > 15
    assert found.late == 0


def test_sortline_makes_nothing_late_in_a_sudden_burst(settings: Settings) -> None:
    found = simulate(SortlinePolicy(settings, FIXED_RATE), at_ms(*range(500), deadline_ms=100), FIXED_RATE)
    assert found.late == 0
    assert len(found.times_ms) > 100  # of 120 that the engine could do


def test_a_policy_that_loses_or_repeats_an_image_is_found_out() -> None:
    class Loses(Fifo):
        def decide(self, *, now: float) -> Decision:
            return Decision(batch=self._take()[1:])

    class Repeats(Fifo):
        def decide(self, *, now: float) -> Decision:
            batch = self._take()
            return Decision(batch=batch, given_up=batch)

    for kind in (Loses, Repeats):
        with pytest.raises(Transient, match=r"3 images arrived, and \d ended"):
            simulate(kind(max_batch=16), at_ms(0, 1, 2), TENS)


def test_arrivals_come_at_their_rate_and_in_order() -> None:
    for arrive in PATTERNS.values():
        times = arrive(random.Random(1), 200.0, 10.0)
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] < 10.0
        assert len(times) == pytest.approx(2000, rel=0.1)


def test_regular_arrivals_are_those_of_several_regular_cameras() -> None:
    times = regular(random.Random(1), 200.0, 10.0)
    for camera in range(CAMERAS):
        steps = [later - earlier for earlier, later in itertools.pairwise(times[camera::CAMERAS])]
        assert steps == pytest.approx([CAMERAS / 200.0] * len(steps))
    assert len(set(poisson(random.Random(1), 200.0, 10.0))) > 1000


def test_every_policy_gets_the_same_arrivals_and_each_run_gives_the_same_figures(settings: Settings) -> None:
    first, again = (
        bench_policies(settings, seconds=0.5, deadline_ms=150.0, on_progress=lambda text: None) for _ in range(2)
    )
    assert first == again
    cases = first["cases"]
    assert len(cases) == len(ENGINES) * len(PATTERNS) * len(LOADS) * 3
    for _, group in itertools.groupby(cases, key=lambda case: (case["engine"], case["arrivals"], case["percent"])):
        assert len({case["images"] for case in group}) == 1
    for case in cases:
        assert case["in_time"] + case["late"] + case["expired"] == case["images"]
        assert case["in_time_share"] == pytest.approx(case["in_time"] / case["images"], abs=1e-4)
        assert 1 <= case["batch_mean"] <= settings.max_batch
        if case["policy"] != "sortline":
            assert case["expired"] == 0
    assert first["engines_images_per_s"]["GPU-like"] == pytest.approx(GPU_LIKE.full_rate(16), abs=0.1)
