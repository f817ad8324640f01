"""Every metric of the worker, declared once. Base units; no label is unbounded (no job or frame id).

Long, as the collectors behind the metrics are here too: a metric's name and its meaning are in one file.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import redis
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from shared import keys
from shared.schemas import ModelRef, SortResult
from shared.server.error_translation import is_wrong_type
from worker.canary.tally import Comparison
from worker.steps.claim import epoch

# Dense from 1 ms to 1 s, where the deadlines are; the last ones catch a backlog.
LATENCY_BUCKETS_S = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.010, 0.015, 0.020, 0.030, 0.040, 0.050, 0.060, 0.080, 0.100),
    *(0.120, 0.150, 0.200, 0.250, 0.300, 0.400, 0.500, 0.750, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
# A margin is negative when late.
MARGIN_BUCKETS_S = (
    *(-10.0, -1.0, -0.5, -0.25, -0.1, -0.05, -0.02, -0.01, 0.0, 0.005, 0.010, 0.020, 0.030, 0.040, 0.060, 0.080),
    *(0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0),
)
SIZE_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)


# The `line` of all lines beyond `metrics_max_lines`.
OTHER_LINES = "other"

log = logging.getLogger("sortline.metrics")


class Metrics:
    """The worker's metrics in a registry of their own."""

    def __init__(self, *, max_lines: int = 200) -> None:
        """`max_lines` have series of their own."""
        self.registry = CollectorRegistry()
        self._line_label = LineLabel(max_lines)
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
        self.batches = Counter("sortline_batches", "Batches, by why they started", ["reason"], registry=registry)
        self.inflight = Gauge("sortline_inflight_jobs", "Jobs that this worker holds", registry=registry)
        self.redelivered = Counter("sortline_redelivered", "Jobs taken back from workers that died", registry=registry)
        self.leases_lost = Counter(
            "sortline_leases_lost", "Leases that ran out while this worker held them", registry=registry
        )
        self.retried = Counter("sortline_retried", "Attempts that failed and were put back", registry=registry)
        self.refused = Counter(
            "sortline_refused", "Jobs that are not Sortline's, failed or left unread", registry=registry
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
        self.result_cache = Counter(
            "sortline_result_cache", "Images whose answer was asked for in the cache", ["result"], registry=registry
        )
        _start_at_zero(self.result_cache, "hit", "miss")

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
            "Versions that were to be served from now on, by what came of it",
            ["result"],
            registry=registry,
        )
        _start_at_zero(self.swaps, "swapped", "refused")
        self.store_errors = Counter("sortline_store_errors", "Looks at the model store that failed", registry=registry)
        self.engine_seconds = Counter(
            "sortline_engine_seconds",
            "Time of the model: busy with batches, waiting for jobs in hand, or idle with none",
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
            "Images that canary and model in service both saw",
            ["version"],
            registry=registry,
        )
        self.canary_disagreed = Counter(
            "sortline_canary_disagreed", "Of these, those they would treat differently", ["version"], registry=registry
        )
        self.canary_ratio = Gauge(
            "sortline_canary_disagreement_ratio",
            "Share of a canary's compared images that disagreed, over all workers",
            ["version"],
            registry=registry,
        )
        self.canary_skipped = Counter(
            "sortline_canary_skipped", "Comparisons left out for want of time, or of Redis", registry=registry
        )
        self.canary_stopped = Counter(
            "sortline_canary_stopped", "Canaries that this worker stopped", ["reason"], registry=registry
        )
        _start_at_zero(self.canary_stopped, "disagreement", "engine")
        self._canary: tuple[str, ...] | None = None

    def show_model(self, model: ModelRef) -> None:
        """This one is in service now."""
        shown = (model.name, str(model.version), model.engine)
        self.model_info.labels(*shown).set(1)
        if self._model is not None and self._model != shown:
            self.model_info.remove(*self._model)
        self._model = shown

    def show_canary(self, model: ModelRef | None, *, share: float = 0.0, mode: str = "") -> None:
        """This one is tried now, or none is; a version's counts go when it is tried no more."""
        shown = None if model is None else (model.name, str(model.version), f"{share:g}", mode)
        before, self._canary = self._canary, shown
        if shown is not None:
            self.canary_info.labels(*shown).set(1)
        if before is not None and before != shown:
            self.canary_info.remove(*before)
        if before is not None and (shown is None or before[1] != shown[1]):
            for family in (self.canary_compared, self.canary_disagreed, self.canary_ratio):
                family.clear()

    def count_compared(self, version: int, comparisons: Sequence[Comparison], *, ratio: float) -> None:
        """Comparisons that were recorded; `ratio` is over all workers."""
        label = str(version)
        if self._canary is None or self._canary[1] != label:
            return  # it has ended meanwhile, and its labels are gone
        self.canary_compared.labels(label).inc(len(comparisons))
        self.canary_disagreed.labels(label).inc(sum(1 for comparison in comparisons if not comparison.agree))
        self.show_ratio(version, ratio)

    def show_ratio(self, version: int, ratio: float) -> None:
        """What all workers found of the canary, this one perhaps nothing."""
        if self._canary is not None and self._canary[1] == str(version):
            self.canary_ratio.labels(str(version)).set(ratio)

    def observe_finish(self, seconds: float) -> None:
        """One batch took `seconds` to be written."""
        self.stage.observe("finish", seconds)

    def observe_results(self, results: Sequence[SortResult]) -> None:
        """Count results that were written. Called by the finish thread alone."""
        outcomes: Tally[tuple[str, str]] = Tally()
        lanes: Tally[tuple[str, str]] = Tally()
        labels: Tally[tuple[str, str]] = Tally()
        for result in results:
            line = self._line_label.of(result.line)
            outcomes[line, result.outcome.value] += 1
            lanes[line, result.lane] += 1
            for label in result.labels:
                labels[line, label.label] += 1
            self._observe_times(result, line)
        for counter, tally in ((self.jobs, outcomes), (self.lanes, lanes), (self.labels, labels)):
            for label_values, count in tally.items():
                counter.labels(*label_values).inc(count)

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
        if timings.total is not None:  # None: the time of capture is impossible
            self.capture_to_result.observe(line, timings.total / 1000)
        if result.deadline_margin_ms is not None:
            self.margin.observe(line, result.deadline_margin_ms / 1000)


def _start_at_zero(counter: Counter, *label_values: str) -> None:
    """Show them before the first event: Prometheus sees no increase in a series that begins with 1."""
    for value in label_values:
        counter.labels(value)


class LineLabel:
    """The `line` label of each line: its name, or `other` for those beyond a limit. Used by the finish thread alone.

    Whoever can write to a queue can invent lines, and each costs some 67 series for as long as the worker lives.
    A line that is itself named `other` is counted together with them.
    """

    def __init__(self, max_lines: int) -> None:
        self._max_lines = max_lines
        self._known: set[str] = set()
        self._is_full = False

    def of(self, line: str) -> str:
        """The label's value for a line; the first lines to come keep their names."""
        if line in self._known:
            return line
        if len(self._known) < self._max_lines:
            self._known.add(line)
            return line
        if not self._is_full:
            self._is_full = True
            log.warning(
                "line %s is one more than the %d lines that have metrics of their own: it and all others are "
                "counted as line=%r. If they are real, raise metrics_max_lines and restart.",
                line,
                self._max_lines,
                OTHER_LINES,
            )
        return OTHER_LINES


class EngineClock:
    """Counts what the model's time goes to, by whichever threads bring it batches."""

    def __init__(self, seconds: Counter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._inside = 0
        self._without = "idle"  # the state while nothing is inside
        self._since = clock()
        self._turning = threading.Lock()

    def entered(self) -> None:
        """One more batch is in the model."""
        self._turn(1)

    def left(self) -> None:
        """One less."""
        self._turn(-1)

    def look(self, *, is_idle: bool) -> None:
        """Whether there is nothing that will come to the model, while nothing is in it."""
        self._turn(0)
        self._without = "idle" if is_idle else "waiting"

    def _turn(self, change: int) -> None:
        with self._turning:
            now = self._clock()
            self._seconds.labels("busy" if self._inside else self._without).inc(now - self._since)
            self._since = now
            self._inside += change


class Distribution(Collector):
    """A Prometheus histogram with one label, written by one thread.

    The client's own Histogram takes a lock and walks its buckets for each value, some 2.5 µs; six values
    a job made that the largest part of a job's bookkeeping. This one takes about 0.3 µs. A scrape may see
    a value in its bucket and not yet in the sum.

    What lies outside the buckets counts in the sum as the outermost bound, durations below zero as zero: one job with
    a wrong clock would otherwise spoil the sum, and with it every average, for as long as the worker runs.
    """

    def __init__(self, name: str, documentation: str, *, label: str, bounds: Sequence[float]) -> None:
        """`bounds` are the buckets' upper bounds, ascending, without +Inf."""
        self._name = name
        self._documentation = documentation
        self._label = label
        self._bounds = list(bounds)
        self._least, self._most = min(0.0, bounds[0]), bounds[-1]
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, label_value: str, value: float) -> None:
        """Count one value."""
        counts = self._counts.get(label_value)
        if counts is None:
            self._sums[label_value] = 0.0
            counts = self._counts[label_value] = [0] * (len(self._bounds) + 1)
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[label_value] += value if self._least <= value <= self._most else self._clamped(value)

    def _clamped(self, value: float) -> float:
        return self._most if value > self._most else self._least  # NaN, which no comparison holds for, is the least

    def describe(self) -> Iterable[Metric]:
        """Its name, by which `/metrics?name[]=` finds it."""
        return [HistogramMetricFamily(self._name, self._documentation, labels=[self._label])]

    def collect(self) -> Iterable[Metric]:
        """The histogram, as the client's own would be exposed."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for label_value, counts in self._counts.copy().items():
            buckets = list(zip(bounds, itertools.accumulate(counts), strict=True))
            family.add_metric([label_value], buckets, self._sums[label_value])
            if self._bounds[0] < 0:  # then the client leaves out the sum, rightly, and the count with it
                family.add_sample(f"{self._name}_count", {self._label: label_value}, buckets[-1][1])
        return [family]


class QueueGauges(Collector):
    """Depth and oldest age of each queue, and the server's memory, read from the server when scraped.

    Scrapes share a reading for a second, so that many scrapers cost the server nothing.
    """

    def __init__(self, client: redis.Redis, *, queues: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._queues = list(queues)
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._families: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        """`sortline_queue_depth`, `sortline_queue_oldest_seconds`, the server's memory, and whether it answered."""
        with self._lock:
            # Also when the clock was set back, which would freeze the reading until it has caught up.
            if not 0.0 <= self._clock() - self._read_at <= 1.0:
                self._families = self._read()
                self._read_at = self._clock()
            return list(self._families)

    def describe(self) -> Iterable[Metric]:
        """The names without values: registering must not ask the server."""
        return [_redis_up(), *_queue_families(), *_memory_families()]

    def _read(self) -> list[Metric]:
        up = _redis_up()
        try:
            families = [*self._fronts(), *self._memory()]
        except redis.exceptions.RedisError:
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *families]

    def _fronts(self) -> Iterable[Metric]:
        depth, oldest = _queue_families()
        for queue in self._queues:
            try:
                count, age_s = self._front(queue)
            except redis.exceptions.ResponseError as error:
                if not is_wrong_type(error):
                    raise
                continue  # one broken key: its queue has no figures, the others have
            depth.add_metric([queue], count)
            oldest.add_metric([queue], age_s)
        return depth, oldest

    def _memory(self) -> Iterable[Metric]:
        try:
            info = self._client.info("memory")
        except redis.exceptions.ResponseError:
            return ()  # an ACL user without INFO, which is @dangerous, still sees the queues
        used, most = _memory_families()
        used.add_metric([], info["used_memory"])
        most.add_metric([], info["maxmemory"])
        return used, most

    def _front(self, queue: str) -> tuple[int, float]:
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.llen(keys.rq_queue(queue))
            pipeline.lindex(keys.rq_queue(queue), 0)
            count, job_id = pipeline.execute()
        enqueued_at = (
            epoch(cast(bytes | None, self._client.hget(keys.rq_job(job_id.decode(errors="replace")), "enqueued_at")))
            if job_id
            else None
        )
        return int(count), 0.0 if enqueued_at is None else max(0.0, self._clock() - enqueued_at)


def _redis_up() -> GaugeMetricFamily:
    return GaugeMetricFamily("sortline_redis_up", "1 when the Redis server answered this scrape")


def _queue_families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("sortline_queue_depth", "Jobs waiting", labels=["queue"]),
        GaugeMetricFamily(
            "sortline_queue_oldest_seconds", "Age of the job at the front; 0 when the queue is empty", labels=["queue"]
        ),
    )


def _memory_families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("sortline_redis_memory_used_bytes", "Memory that the server uses"),
        GaugeMetricFamily("sortline_redis_memory_max_bytes", "The server's maxmemory; 0 when it has none"),
    )
