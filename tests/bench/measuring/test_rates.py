"""Rates and ratios, and the turns that contenders take."""

from __future__ import annotations

import pytest

from bench.measuring.rates import Contender, interleaved, rate_between, ratio, ratios_to, spreads
from shared.errors import Transient


def test_the_first_results_start_the_clock_and_are_not_counted() -> None:
    """Two at 10 s start the clock; four more come within two seconds."""
    assert rate_between([12.0, 10.0, 10.0, 11.0, 11.0, 12.0]) == 2.0


def test_results_that_come_all_at_once_have_no_rate() -> None:
    with pytest.raises(Transient, match="all 3 images finished at once"):
        rate_between([5.0, 5.0, 5.0])


def test_contenders_take_turns() -> None:
    turns: list[str] = []
    messages: list[str] = []

    def contender(key: str, rate: float) -> Contender:
        def run() -> float:
            turns.append(key)
            return rate * len(turns)

        return Contender(key, f"the {key}", run)

    rates = interleaved(
        [contender("one", 1.0), contender("two", 2.0)], rounds=2, title="race", on_progress=messages.append
    )
    assert turns == ["one", "two", "one", "two"]
    assert rates == {"one": [1.0, 3.0], "two": [4.0, 8.0]}
    assert messages[2] == "race: round 2 of 2, the one"


def test_rates_are_medians_over_the_rounds() -> None:
    rates = {"sortline": [900.0, 100.0, 300.0], "slow": [3.0, 1.0, 2.0], "twin": [290.0, 280.0, 600.0]}
    assert spreads(rates, unit="jobs_per_s")["sortline_jobs_per_s"] == {"median": 300.0, "min": 100.0, "max": 900.0}
    assert ratios_to(rates, ["slow", "twin"]) == {"ratio_to_slow": 150.0, "ratio_to_twin": 1.034}
    assert ratio(rates, "slow", to="twin") == 0.007
