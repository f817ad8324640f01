"""Contenders of one benchmark: run in turn, round after round, and compared by their medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.figures import Say, spread
from shared.errors import Transient

Rates = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Contender:
    """What is compared: its `key` in the record, its `title` for people, and one run that gives its images/s."""

    key: str
    title: str
    run: Callable[[], float]


def interleaved(contenders: Sequence[Contender], *, rounds: int, title: str, say: Say) -> Rates:
    """The rates of each contender by its key; what else loads the machine meanwhile hits all of them alike."""
    rates: Rates = {contender.key: [] for contender in contenders}
    for number in range(1, rounds + 1):
        for contender in contenders:
            say(f"{title}: round {number} of {rounds}, {contender.title}")
            rates[contender.key].append(contender.run())
    return rates


def spreads(rates: Rates, *, unit: str) -> dict[str, dict[str, float]]:
    """Median, least and most of each contender, as records have them, e.g. `sortline_jobs_per_s`."""
    return {f"{key}_{unit}": spread(values) for key, values in rates.items()}


def ratio(rates: Rates, key: str, *, to: str) -> float:
    """How many times the median of `to` the median of `key` is: three digits after the point where it is small."""
    value = statistics.median(rates[key]) / statistics.median(rates[to])
    return round(value, 3 if value < 10 else 1)


def ratios_to(rates: Rates, others: Iterable[str]) -> dict[str, float]:
    """Sortline against each of the others, e.g. `ratio_to_no_queue`."""
    return {f"ratio_to_{other}": ratio(rates, "sortline", to=other) for other in others}


def rate_between(finished_at: Iterable[float]) -> float:
    """Images/s from the first finish to the last, of times in seconds.

    What came with the first counts as the start, not as work: starting up counts for no contender.

    Raises:
        Transient: all finished at once.
    """
    times = sorted(finished_at)
    elapsed_s = times[-1] - times[0]
    if elapsed_s <= 0:
        raise Transient(f"all {len(times)} images finished at once: give the benchmark more --jobs.")
    return (len(times) - times.count(times[0])) / elapsed_s
