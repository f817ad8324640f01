"""Every metric of the worker, declared once, except those that `queue_gauges` reads from the server.

Base units; no label is unbounded (no job or frame id).
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.schemas import ModelRef, Outcome, SortResult
from worker.observe.distribution import Distribution

# Dense from 1 ms to 1 s, where deadlines are. The last ones are for a backlog.
LATENCY_BUCKETS_S = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.010, 0.015, 0.020, 0.030, 0.040, 0.050, 0.060, 0.080, 0.100),
    *(0.120, 0.150, 0.200, 0.250, 0.300, 0.400, 0.500, 0.750, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
# A margin is negative for a late result.
MARGIN_BUCKETS_S = (
    *(-10.0, -1.0, -0.5, -0.25, -0.1, -0.05, -0.02, -0.01, 0.0, 0.005, 0.010, 0.020, 0.030, 0.040, 0.060, 0.080),
    *(0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0),
)
SIZE_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)


# The label `line` of all lines beyond `metrics_max_lines`.
OTHER_LINES = "other"

log = logging.getLogger("sortline.metrics")


class Metrics:
    """The worker's metrics in a registry of their own."""

    def __init__(self, *, max_lines: int = 200) -> None:
        """At most `max_lines` lines have series of their own."""
        self.registry = CollectorRegistry()
        self._line_label = LineLabel(max_lines)
        self._lines: set[str] = set()  # those that have a series for each outcome
        self._add_results()
        self._add_pipeline()
        self._add_model()
        self._add_canary()

    def _add_results(self) -> None:
        registry = self.registry
        self.jobs = Counter("sortline_jobs", "Jobs ended, by line and outcome", ["line", "outcome"], registry=registry)
        self.labels = Counter("sortline_labels", "Labels given to bottles", ["line", "label"], registry=registry)
        self.lanes = Counter("sortline_lanes", "Lanes chosen for bottles", ["line", "lane"], registry=registry)
        self.capture_to_result = Distribution(
            "sortline_capture_to_result_seconds",
            "From the camera's capture to the result being made",
            label="line",
            bounds=LATENCY_BUCKETS_S,
        )
        self.margin = Distribution(
            "sortline_deadline_margin_seconds",
            "Time left to the deadline when the result was made; negative when late",
            label="line",
            bounds=MARGIN_BUCKETS_S,
        )
        registry.register(self.capture_to_result)
        registry.register(self.margin)

    def _add_pipeline(self) -> None:
        registry = self.registry
        self.stage = Distribution(
            "sortline_stage_seconds",
            "Time of one image in one stage (infer, finish: of its batch)",
            label="stage",
            bounds=LATENCY_BUCKETS_S,
        )
        registry.register(self.stage)
        self.batch_size = Histogram("sortline_batch_size", "Images per batch", buckets=SIZE_BUCKETS, registry=registry)
        self.batches = Counter("sortline_batches", "Batches, by reason to start", ["reason"], registry=registry)
        _start_at_zero(self.batches, "full", "deadline", "linger", "drain")
        self.inflight = Gauge("sortline_inflight_jobs", "Jobs that this worker holds", registry=registry)
        self.redelivered = Counter("sortline_redelivered", "Jobs taken back from workers that died", registry=registry)
        self.leases_lost = Counter(
            "sortline_leases_lost", "Leases that ran out while this worker held them", registry=registry
        )
        self.retried = Counter("sortline_retried", "Attempts that failed and were put back", registry=registry)
        self.refused = Counter(
            "sortline_refused", "Jobs that are not Sortline's: failed or left without being run", registry=registry
        )
        self.clock_offset = Gauge(
            "sortline_clock_offset_seconds",
            "This process's clock minus the Redis server's: positive when it is ahead",
            registry=registry,
        )
        self.recovered = Counter(
            "sortline_recovered",
            "Lost jobs that the sweep found, in no list and no registry, by what became of them",
            ["result"],
            registry=registry,
        )
        _start_at_zero(self.recovered, "requeued", "failed")
        self.server_errors = Counter(
            "sortline_server_errors", "Calls to Redis that failed, by step", ["step"], registry=registry
        )
        _start_at_zero(self.server_errors, "start", "claim", "decode-costly", "finish", "archive", "leases")
        _start_at_zero(self.server_errors, "canary", "presence")
        self.result_cache = Counter(
            "sortline_result_cache", "Images looked up in the result cache, by result", ["result"], registry=registry
        )
        _start_at_zero(self.result_cache, "hit", "miss")
        self.archive = Counter(
            "sortline_archive", "Images that were to be archived, by what became of them", ["result"], registry=registry
        )
        _start_at_zero(self.archive, "written", "dropped", "failed", "no_image")

    def _add_model(self) -> None:
        registry = self.registry
        self.model_info = Gauge(
            "sortline_model_info", "The model being served (always 1)", ["name", "version", "engine"], registry=registry
        )
        self.model_load = Gauge(
            "sortline_model_load_seconds", "Time to load, verify and warm up the model", registry=registry
        )
        self.swaps = Counter(
            "sortline_model_swaps",
            "Versions that were to replace the one in service, by what became of them",
            ["result"],
            registry=registry,
        )
        _start_at_zero(self.swaps, "swapped", "refused")
        self.store_errors = Counter("sortline_store_errors", "Polls of the model store that failed", registry=registry)
        self.engine_seconds = Counter(
            "sortline_engine_seconds",
            "Time of the model: busy with batches, waiting for jobs that the worker holds, or idle without jobs",
            ["state"],
            registry=registry,
        )
        _start_at_zero(self.engine_seconds, "busy", "waiting", "idle")
        self._model: tuple[str, ...] | None = None

    def _add_canary(self) -> None:
        registry = self.registry
        self.canary_info = Gauge(
            "sortline_canary_info",
            "The canary being tried (always 1)",
            ["name", "version", "share", "mode"],
            registry=registry,
        )
        self.canary_compared = Counter(
            "sortline_canary_compared",
            "Images that the canary and the stable model both saw",
            ["version"],
            registry=registry,
        )
        self.canary_disagreed = Counter(
            "sortline_canary_disagreed",
            "Compared images that the two models would treat differently",
            ["version"],
            registry=registry,
        )
        self.canary_ratio = Gauge(
            "sortline_canary_disagreement_ratio",
            "Share of a canary's compared images that disagreed, over all workers",
            ["version"],
            registry=registry,
        )
        self.canary_skipped = Counter(
            "sortline_canary_skipped",
            "Comparisons left out for lack of time, or as Redis was unavailable",
            registry=registry,
        )
        self.canary_stopped = Counter(
            "sortline_canary_stopped", "Canaries that this worker stopped", ["reason"], registry=registry
        )
        _start_at_zero(self.canary_stopped, "disagreement", "engine")
        self._canary: tuple[str, ...] | None = None

    def show_model(self, model: ModelRef) -> None:
        """Show the model that is in service now."""
        shown = (model.name, str(model.version), model.engine)
        self.model_info.labels(*shown).set(1)
        if self._model is not None and self._model != shown:
            self.model_info.remove(*self._model)
        self._model = shown

    def show_canary(self, model: ModelRef | None, *, share: float = 0.0, mode: str = "") -> None:
        """Show the canary that is tried now, or that there is none. A version's counts are removed with its canary."""
        shown = None if model is None else (model.name, str(model.version), f"{share:g}", mode)
        before, self._canary = self._canary, shown
        if shown is not None:
            self.canary_info.labels(*shown).set(1)
        if before is not None and before != shown:
            self.canary_info.remove(*before)
        if before is not None and (shown is None or before[1] != shown[1]):
            for family in (self.canary_compared, self.canary_disagreed, self.canary_ratio):
                family.clear()

    def count_compared(self, version: int, *, compared: int, disagreed: int, ratio: float) -> None:
        """Count comparisons that were recorded. `ratio`: of disagreements, over all workers."""
        label = str(version)
        if self._canary is None or self._canary[1] != label:
            return  # the canary has ended meanwhile, and its labels are gone
        self.canary_compared.labels(label).inc(compared)
        self.canary_disagreed.labels(label).inc(disagreed)
        self.show_ratio(version, ratio)

    def show_ratio(self, version: int, ratio: float) -> None:
        """Show the canary's ratio of disagreements over all workers."""
        if self._canary is not None and self._canary[1] == str(version):
            self.canary_ratio.labels(str(version)).set(ratio)

    def observe_finish(self, seconds: float) -> None:
        """Count the time that it took to write one batch."""
        self.stage.observe("finish", seconds)

    def observe_results(self, results: Sequence[SortResult]) -> None:
        """Count results that were written. Only the finish thread calls this."""
        outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
        lanes: collections.Counter[tuple[str, str]] = collections.Counter()
        labels: collections.Counter[tuple[str, str]] = collections.Counter()
        for result in results:
            line = self._line_label.of(result.line)
            outcomes[line, result.outcome.value] += 1
            lanes[line, result.lane] += 1
            for label in result.labels:
                labels[line, label.label] += 1
            self._observe_times(result, line)
        for line in {line for line, _ in outcomes} - self._lines:
            self._lines.add(line)
            for outcome in Outcome:  # so that the line's first late job, for example, is an increase
                self.jobs.labels(line, outcome.value)
        for counter, counts in ((self.jobs, outcomes), (self.lanes, lanes), (self.labels, labels)):
            for label_values, count in counts.items():
                counter.labels(*label_values).inc(count)

    def ended_by_outcome(self) -> collections.Counter[str]:
        """Return how many jobs have ended so far, by outcome, over all lines."""
        ended: collections.Counter[str] = collections.Counter()
        for family in self.jobs.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    ended[sample.labels["outcome"]] += int(sample.value)
        return ended

    def _observe_times(self, result: SortResult, line: str) -> None:
        timings, stage = result.timings_ms, self.stage
        for name, ms in (
            ("queue", timings.queue),
            ("decode", timings.decode),
            ("batch", timings.batch),
            ("infer", timings.infer),
        ):
            if ms is not None:
                stage.observe(name, ms / 1000)
        if timings.total is not None:  # None if the time of capture is impossible
            self.capture_to_result.observe(line, timings.total / 1000)
        if result.deadline_margin_ms is not None:
            self.margin.observe(line, result.deadline_margin_ms / 1000)


def _start_at_zero(counter: Counter, *label_values: str) -> None:
    """Create these series before the first event: Prometheus sees no increase in a series that begins with 1."""
    for value in label_values:
        counter.labels(value)


class LineLabel:
    """The `line` label of each line: its name, or `other` for lines beyond a limit. For the finish thread only.

    Anybody who can write to a queue can invent lines, and each costs about 75 series for as long as the worker lives.
    A line that is itself named `other` is counted together with those.
    """

    def __init__(self, max_lines: int) -> None:
        self._max_lines = max_lines
        self._known: set[str] = set()
        self._is_full = False

    def of(self, line: str) -> str:
        """The label's value for a line. The first lines that are seen keep their names."""
        if line in self._known:
            return line
        if len(self._known) < self._max_lines:
            self._known.add(line)
            return line
        if not self._is_full:
            self._is_full = True
            log.warning(
                "%d lines have metrics of their own, and no more may (metrics_max_lines): %s and all further lines are "
                "counted as line=%r. If they are real, raise metrics_max_lines and restart.",
                self._max_lines,
                line,
                OTHER_LINES,
            )
        return OTHER_LINES
