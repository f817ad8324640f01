"""How long a queue takes to empty, and how loaded its workers are: right, and finite whatever the server holds."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import pytest

from shared.arrivals import DECAY_S
from worker.observe.queue_forecast import (
    ARRIVALS,
    CAPACITY,
    CAPACITY_AT,
    FRESH_S,
    MAX_DRAIN_S,
    MAX_LOAD_RATIO,
    Forecast,
    forecast,
)

NOW = 1_700_000_000.0


def flow(
    *, capacity: float | None = None, written_ago_s: float = 0.0, rate: float | None = None, arrived_ago_s: float = 0.0
) -> dict[str, bytes | None]:
    """The hash when `rate` frames per second have arrived for long, and the last one some time ago."""
    fields: dict[str, bytes | None] = dict.fromkeys((CAPACITY, CAPACITY_AT, *ARRIVALS))
    if capacity is not None:
        fields |= {CAPACITY: f"{capacity:.6f}".encode(), CAPACITY_AT: f"{NOW - written_ago_s:.6f}".encode()}
    if rate is not None:
        values = (rate * DECAY_S, DECAY_S, NOW - arrived_ago_s)
        fields |= {name: f"{value:.6f}".encode() for name, value in zip(ARRIVALS, values, strict=True)}
    return fields


def test_an_empty_queue_that_nobody_uses_is_all_zero() -> None:
    assert forecast(flow(), depth=0, now=NOW) == Forecast(capacity=0.0, drain_s=0.0, load_ratio=0.0)


def test_jobs_that_wait_and_frames_that_arrive_are_compared_with_the_workers() -> None:
    found = forecast(flow(capacity=200, rate=600), depth=100, now=NOW)
    assert (found.capacity, found.drain_s, found.load_ratio) == pytest.approx((200, 0.5, 3.0))


@pytest.mark.parametrize("written_ago_s", [FRESH_S + 0.1, -FRESH_S - 0.1])
def test_a_capacity_that_nobody_updates_is_none(written_ago_s: float) -> None:
    found = forecast(flow(capacity=200, written_ago_s=written_ago_s, rate=10), depth=1, now=NOW)
    assert found == Forecast(capacity=0.0, drain_s=MAX_DRAIN_S, load_ratio=MAX_LOAD_RATIO)


def test_without_workers_both_are_at_their_most() -> None:
    assert forecast(flow(rate=1), depth=1, now=NOW).load_ratio == MAX_LOAD_RATIO == 100
    assert forecast(flow(), depth=1, now=NOW).drain_s == MAX_DRAIN_S == 3600
    assert forecast(flow(capacity=0, rate=1), depth=1, now=NOW).load_ratio == MAX_LOAD_RATIO  # suspended


def test_both_are_capped() -> None:
    found = forecast(flow(capacity=0.01, rate=1000), depth=1000, now=NOW)
    assert (found.drain_s, found.load_ratio) == (MAX_DRAIN_S, MAX_LOAD_RATIO)


def test_a_queue_that_is_no_longer_used_has_load_zero_also_without_workers() -> None:
    assert forecast(flow(rate=100, arrived_ago_s=300), depth=0, now=NOW).load_ratio == 0
    assert forecast(flow(rate=100, arrived_ago_s=30), depth=0, now=NOW).load_ratio > 0


ANYTHING = st.one_of(
    st.none(),
    st.binary(max_size=30),
    st.floats().map(lambda value: repr(value).encode()),
    st.sampled_from([b"inf", b"nan", b"-1", b"1e308", b"1e-320", b"0", b"%.6f" % NOW]),
)


@hypothesis.given(
    fields=st.fixed_dictionaries({name: ANYTHING for name in (CAPACITY, CAPACITY_AT, *ARRIVALS)}),
    depth=st.integers(0, 10**9),
    now=st.floats(0, 4e9),
)
def test_whatever_is_in_the_hash_the_figures_are_finite(
    fields: dict[str, bytes | None], depth: int, now: float
) -> None:
    found = forecast(fields, depth=depth, now=now)
    for value in (found.capacity, found.drain_s, found.load_ratio):
        assert math.isfinite(value) and value >= 0
    assert found.drain_s <= MAX_DRAIN_S and found.load_ratio <= MAX_LOAD_RATIO
    assert (found.drain_s == 0) == (depth == 0) or found.capacity > depth
