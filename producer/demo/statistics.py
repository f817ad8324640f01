"""Keeps the demo's statistics of the results so far: counts, latencies, and whether the model was right. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.schemas import Outcome, SortResult

# The true labels of a result's frame.
TruthOf = Callable[[SortResult], frozenset[str]]

RATE_WINDOW_S = 5.0
EXAMPLES_KEPT = 60


@dataclass
class ResultStatistics:
    """Counts results as they come."""

    truth_of: TruthOf
    outcomes: Counter[str] = field(default_factory=Counter)
    by_line: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    lanes: Counter[str] = field(default_factory=Counter)
    classified: int = 0
    exact: int = 0  # results whose labels are exactly the true ones
    examples: deque[SortResult] = field(default_factory=lambda: deque(maxlen=EXAMPLES_KEPT))
    seen: Counter[str] = field(default_factory=Counter)  # number of results by job id; should be 1 for each job
    first_at: float | None = None
    last_at: float | None = None
    model: str = ""
    _latencies_ms: list[float] = field(default_factory=list)
    _recent: deque[float] = field(default_factory=deque)

    def add(self, result: SortResult) -> None:
        """Count one result."""
        self.seen[result.job_id] += 1
        self.outcomes[result.outcome.value] += 1
        self.by_line[result.line] += 1
        self.lanes[result.lane] += 1
        # By this machine's clock, as its cameras took the pictures; the result's own `finished_at` is by the server's.
        total_ms = result.timings_ms.total or 0.0
        finished_at = result.captured_at + total_ms / 1000
        self._latencies_ms.append(total_ms)
        self.first_at = min(self.first_at or finished_at, finished_at)
        self.last_at = max(self.last_at or finished_at, finished_at)
        self._recent.append(finished_at)
        if result.outcome not in (Outcome.SORTED, Outcome.LATE):
            return
        labels = frozenset(label.label for label in result.labels)
        self.labels.update(labels)
        self.classified += 1
        self.exact += labels == self.truth_of(result)
        self.examples.append(result)
        if result.model is not None:
            self.model = f"{result.model.name}@{result.model.version} on {result.model.engine}"

    @property
    def count(self) -> int:
        """Results so far."""
        return self.seen.total()

    @property
    def doubled(self) -> int:
        """Jobs with more than one result."""
        return sum(1 for count in self.seen.values() if count > 1)

    def rate_now(self, now: float) -> float:
        """Results per second over the last few seconds."""
        while self._recent and self._recent[0] < now - RATE_WINDOW_S:
            self._recent.popleft()
        return len(self._recent) / RATE_WINDOW_S

    def rate(self) -> float:
        """Results per second between the first result and the last."""
        if self.first_at is None or self.last_at is None or self.last_at <= self.first_at:
            return 0.0
        return (self.count - 1) / (self.last_at - self.first_at)

    def percentiles_ms(self, ranks: Sequence[float]) -> list[float]:
        """The time from capture to result at the given percentiles, in milliseconds; 0 while there is no result."""
        if not self._latencies_ms:
            return [0.0] * len(ranks)
        return [float(value) for value in np.percentile(self._latencies_ms, ranks)]
