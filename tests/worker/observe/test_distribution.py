"""`Distribution`, compared with the Prometheus client's own histogram."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from tests.worker.observe.exposition import samples
from worker.observe.distribution import Distribution
from worker.observe.metrics import LATENCY_BUCKETS_S, MARGIN_BUCKETS_S


@pytest.mark.parametrize("bounds", [LATENCY_BUCKETS_S, MARGIN_BUCKETS_S], ids=["latency", "margin"])
def test_distributions_are_exposed_as_the_clients_own_histogram(bounds: tuple[float, ...]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    distribution = Distribution("x_seconds", "X.", label="line", bounds=bounds)
    ours.register(distribution)
    histogram = Histogram("x_seconds", "X.", ["line"], buckets=bounds, registry=theirs)
    for number, value in enumerate((0.0, 0.001, 0.0011, 0.1, 1.0, 4.9, bounds[0], bounds[-1])):
        distribution.observe(f"l{number % 2}", value)
        histogram.labels(f"l{number % 2}").observe(value)
    expected = {key: value for key, value in samples(theirs).items() if not key[0].endswith("_created")}
    assert samples(ours) == pytest.approx(expected)
    assert _types(ours) == _types(theirs)


@pytest.mark.parametrize("bounds", [LATENCY_BUCKETS_S, MARGIN_BUCKETS_S], ids=["latency", "margin"])
@pytest.mark.parametrize("value", [1e303, -1e303, 1e9, -1e9, float("inf"), float("-inf"), float("nan")])
def test_a_wrong_clock_does_not_spoil_a_sum(bounds: tuple[float, ...], value: float) -> None:
    """An impossible value counts once, in its bucket, and changes the sum by no more than the range of the buckets."""
    registry = CollectorRegistry()
    distribution = Distribution("x_seconds", "X.", label="line", bounds=bounds)
    registry.register(distribution)
    for each in (0.5, value, 0.25):
        distribution.observe("l1", each)
    assert 0.75 + min(0.0, bounds[0]) <= distribution._sums["l1"] <= 0.75 + bounds[-1]
    assert samples(registry)["x_seconds_count", (("line", "l1"),)] == 3
    beyond = samples(registry)["x_seconds_bucket", (("le", str(bounds[-1])), ("line", "l1"))]
    assert beyond == (2 if value > bounds[-1] else 3)


def _types(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if re.match(r"# TYPE x_seconds ", line)]


@pytest.mark.parametrize("bounds", [LATENCY_BUCKETS_S, MARGIN_BUCKETS_S], ids=["latency", "margin"])
def test_buckets_ascend(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
