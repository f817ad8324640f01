"""Medians, percentiles, rates and what limits them: the arithmetic of the benchmarks."""

from __future__ import annotations

import pytest

from bench.benchmarks.scaling import limited_by
from bench.contenders.worker_processes import steady_rate
from bench.engines.simulated import FIXED_RATE, GPU_LIKE
from bench.measuring.record import percentile, percentiles, spread
from shared.errors import Transient
from shared.schemas import Outcome, SortResult


def result(worker: str, finished_at: float) -> SortResult:
    return SortResult(
        job_id="j",
        line="l",
        camera="c",
        captured_at=0.0,
        finished_at=finished_at,
        outcome=Outcome.SORTED,
        lane="x",
        worker=worker,
    )


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(200, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 50, 95, 99, 100)] == [1, 101, 191, 199, 200]
    assert percentiles([3.0, 1.0, 2.04]) == {"images": 3, "p50": 2.0, "p95": 3.0, "p99": 3.0, "max": 3.0}
    assert percentiles([2.04], digits=2)["p50"] == 2.04


def test_a_spread_is_the_median_of_the_rounds_and_their_extremes() -> None:
    assert spread([3.0, 1.04, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_the_steady_rate_counts_only_while_all_workers_are_at_it() -> None:
    """One does 10 a second from 0 to 10 s, the other from 4 to 12 s: together 20, between 4 and 10."""
    early = [result("a", step / 10) for step in range(101)]
    late = [result("b", 4 + step / 10) for step in range(81)]
    assert steady_rate(early + late, workers=2) == pytest.approx(20.0, rel=0.02)
    assert steady_rate(early, workers=1) == pytest.approx(10.0)


def test_workers_that_took_turns_have_no_common_rate() -> None:
    with pytest.raises(Transient, match="2 workers never worked at the same time"):
        steady_rate([result("a", 1.0), result("a", 2.0), result("b", 3.0), result("b", 4.0)], workers=2)


@pytest.mark.parametrize("worked", [["a"], []])
def test_a_rate_of_two_workers_is_not_that_of_fewer(worked: list[str]) -> None:
    found = [result(name, float(second)) for name in worked for second in range(5)]
    with pytest.raises(Transient, match=f"{len(worked)} of 2 workers had work"):
        steady_rate(found, workers=2)


@pytest.mark.parametrize(
    ("shares", "limit"),
    [
        ({"server": 0.2, "cores": 0.5, "engine": 0.95}, "engine"),
        ({"server": 0.97, "cores": 0.9, "engine": 0.3}, "server"),
        ({"server": 0.4, "cores": 0.9, "engine": 0.6}, "cores"),
        ({"server": 0.4, "cores": 0.5}, "other"),
    ],
)
def test_the_most_used_resource_is_the_limit_if_it_is_used_up(shares: dict[str, float], limit: str) -> None:
    assert limited_by(shares) == limit


def test_a_simulated_engine_that_never_waits_does_a_batch_in_its_time() -> None:
    assert GPU_LIKE.full_rate(16) == pytest.approx(16 / ((GPU_LIKE.batch_ms + 16 * GPU_LIKE.image_ms) / 1000))


@pytest.mark.parametrize("size", [1, 7, 16, 64])
def test_the_engine_of_a_fixed_rate_does_as_many_in_batches_of_any_size(size: int) -> None:
    assert FIXED_RATE.full_rate(size) == pytest.approx(200)
