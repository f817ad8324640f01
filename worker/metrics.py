"""Every metric of the worker, declared once. Base units; no label is unbounded (no job or frame id)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import redis
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared import keys
from shared.schemas import Outcome, SortResult
from worker.claim import epoch

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
STAGES = ("queue", "decode", "batch", "infer", "finish")


class Metrics:
    """The worker's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.jobs = Counter("sortline_jobs", "Jobs ended, by line and outcome", ["line", "outcome"], registry=registry)
        self.labels = Counter("sortline_labels", "Labels given to bottles", ["line", "label"], registry=registry)
        self.lanes = Counter("sortline_lanes", "Lanes chosen for bottles", ["line", "lane"], registry=registry)
        self.stage = Histogram(
            "sortline_stage_seconds",
            "Time of one image in one stage (infer, finish: of its batch)",
            ["stage"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.capture_to_result = Histogram(
            "sortline_capture_to_result_seconds",
            "From the camera's capture to the result being written",
            ["line"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.margin = Histogram(
            "sortline_deadline_margin_seconds",
            "Time left to the deadline when the result was made; negative when late",
            ["line"],
            buckets=MARGIN_BUCKETS_S,
            registry=registry,
        )
        self.batch_size = Histogram("sortline_batch_size", "Images per batch", buckets=SIZE_BUCKETS, registry=registry)
        self.batches = Counter("sortline_batches", "Batches, by why they started", ["reason"], registry=registry)
        self.inflight = Gauge("sortline_inflight_jobs", "Jobs that this worker holds", registry=registry)
        self.redelivered = Counter("sortline_redelivered", "Jobs taken back from workers that died", registry=registry)
        self.leases_lost = Counter(
            "sortline_leases_lost", "Leases that ran out while this worker held them", registry=registry
        )
        self.retried = Counter("sortline_retried", "Attempts that failed and were put back", registry=registry)
        self.refused = Counter("sortline_refused", "Jobs that are not Sortline's, failed unread", registry=registry)
        self.server_errors = Counter(
            "sortline_server_errors", "Calls to Redis that failed, by step", ["step"], registry=registry
        )
        self.model_info = Gauge(
            "sortline_model_info", "The model being served (always 1)", ["name", "version", "engine"], registry=registry
        )
        self.model_load = Gauge(
            "sortline_model_load_seconds", "Time to load, verify and warm up the model", registry=registry
        )
        self._stages = {stage: self.stage.labels(stage) for stage in STAGES}

    def observe_stage(self, stage: str, seconds: float) -> None:
        """One image, or one batch for `finish`, spent `seconds` in `stage`."""
        self._stages[stage].observe(seconds)

    def observe_result(self, result: SortResult) -> None:
        """Count a result that was written."""
        line, timings = result.line, result.timings_ms
        self.jobs.labels(line, result.outcome.value).inc()
        self.lanes.labels(line, result.lane).inc()
        if result.outcome in (Outcome.SORTED, Outcome.LATE):
            for label in result.labels:
                self.labels.labels(line, label.label).inc()
        for stage in ("queue", "decode", "batch", "infer"):
            ms = getattr(timings, stage)
            if ms is not None:
                self._stages[stage].observe(ms / 1000)
        self.capture_to_result.labels(line).observe(result.finished_at - result.captured_at)
        if result.deadline_margin_ms is not None:
            self.margin.labels(line).observe(result.deadline_margin_ms / 1000)


class QueueGauges(Collector):
    """Depth and oldest age of each queue, read from the server when scraped.

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
        """`sortline_queue_depth`, `sortline_queue_oldest_seconds`, and whether the server answered."""
        with self._lock:
            if self._clock() - self._read_at > 1.0:
                self._families = self._read()
                self._read_at = self._clock()
            return list(self._families)

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the server."""
        return []

    def _read(self) -> list[Metric]:
        up = GaugeMetricFamily("sortline_redis_up", "1 when the Redis server answered this scrape")
        depth = GaugeMetricFamily("sortline_queue_depth", "Jobs waiting", labels=["queue"])
        oldest = GaugeMetricFamily(
            "sortline_queue_oldest_seconds", "Age of the job at the front; 0 when the queue is empty", labels=["queue"]
        )
        try:
            for queue in self._queues:
                count, age_s = self._front(queue)
                depth.add_metric([queue], count)
                oldest.add_metric([queue], age_s)
        except redis.exceptions.RedisError:
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, depth, oldest]

    def _front(self, queue: str) -> tuple[int, float]:
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.llen(keys.rq_queue(queue))
            pipeline.lindex(keys.rq_queue(queue), 0)
            count, job_id = pipeline.execute()
        enqueued_at = (
            epoch(cast(bytes | None, self._client.hget(keys.rq_job(job_id.decode()), "enqueued_at")))
            if job_id
            else None
        )
        return int(count), 0.0 if enqueued_at is None else max(0.0, self._clock() - enqueued_at)
