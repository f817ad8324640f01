"""Contenders of one benchmark: run in turn, round after round, and compared by their medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.measuring.record import OnProgress, spread
from shared.errors import Transient

Rates = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a comparison: its `key` in the record, its `title` for people, and a run that returns images/s."""

    key: str
    title: str
    run: Callable[[], float]


def interleaved(contenders: Sequence[Contender], *, rounds: int, title: str, on_progress: OnProgress) -> Rates:
    """Run the contenders in turn and return their rates by key. Other load on the machine affects all of them alike."""
    rates: Rates = {contender.key: [] for contender in contenders}
    for number in range(1, rounds + 1):
        for contender in contenders:
            on_progress(f"{title}: round {number} of {rounds}, {contender.title}")
            rates[contender.key].append(contender.run())
    return rates


def spreads(rates: Rates, *, unit: str) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum of each contender, by the keys of the record, e.g. `sortline_jobs_per_s`."""
    return {f"{key}_{unit}": spread(values) for key, values in rates.items()}


def ratio(rates: Rates, key: str, *, to: str) -> float:
    """The median of `key` divided by the median of `to`, with three decimals below 10 and one above."""
    value = statistics.median(rates[key]) / statistics.median(rates[to])
    return round(value, 3 if value < 10 else 1)


def ratios_to(rates: Rates, others: Iterable[str]) -> dict[str, float]:
    """Sortline's rate divided by each of the others', e.g. `ratio_to_no_queue`."""
    return {f"ratio_to_{other}": ratio(rates, "sortline", to=other) for other in others}


def rate_between(finished_at: Iterable[float]) -> float:
    """Images/s from the first finish to the last, of times in seconds.

    The images that finished together with the first one are not counted, so that starting up counts for no contender.

    Raises:
        Transient: all finished at once.
    """
    times = sorted(finished_at)
    elapsed_s = times[-1] - times[0]
    if elapsed_s <= 0:
        raise Transient(f"all {len(times)} images finished at once: give the benchmark more --jobs.")
    return (len(times) - times.count(times[0])) / elapsed_s
