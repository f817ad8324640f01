"""Metrics of the queues and the server, read from the server when they are scraped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar, cast

import redis
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared import keys
from shared.jobs import MAX_ID_BYTES
from shared.rq_time import parse_rq_time
from shared.server.error_translation import is_wrong_type
from worker.observe.queue_forecast import ARRIVALS, CAPACITY, CAPACITY_AT, Forecast, forecast

T = TypeVar("T")

# Every worker shows the same figures of a queue.
_OF_ALL = "; a figure of the whole queue that every worker shows: take max by (queue), never the sum"
# A time has 27 bytes. Anybody may have written one that fills the worker's memory.
_MAX_TIME_BYTES = 100
_FLOW = (CAPACITY, CAPACITY_AT, *ARRIVALS)


class QueueGauges(Collector):
    """Depth, age and forecast of each queue, and the server's memory, read from the server when scraped.

    All scrapes within a second share one reading, so that many scrapers don't load the server.
    """

    def __init__(self, client: redis.Redis, *, queues: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._queues = list(queues)
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._families: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        """The queues' figures, the server's memory, and whether the server answered."""
        with self._lock:
            # Also read again if the clock was set back: otherwise the old reading would stay until it catches up.
            if not 0.0 <= self._clock() - self._read_at <= 1.0:
                self._families = self._read()
                self._read_at = self._clock()
            return list(self._families)

    def depths(self) -> dict[str, int] | None:
        """Return how many jobs wait in each queue that can be read; None if the server does not answer."""
        families = {family.name: family for family in self.collect()}
        depth = families.get("sortline_queue_depth")
        if depth is None:
            return None
        return {sample.labels["queue"]: int(sample.value) for sample in depth.samples}

    def describe(self) -> Iterable[Metric]:
        """The names without values: registration must not call the server."""
        return [_redis_up(), *_queue_families(), *_forecast_families(), *_memory_families()]

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
        fronts, forecasts = _queue_families(), _forecast_families()
        for queue in self._queues:
            # A broken key costs only the gauges that need it, of its own queue.
            if (front := _unless_broken(self._front, queue)) is None:
                continue
            fronts.depth.add_metric([queue], front[0])
            fronts.oldest.add_metric([queue], front[1])
            if (found := _unless_broken(self._forecast, queue, front[0])) is not None:
                forecasts.capacity.add_metric([queue], found.capacity)
                forecasts.drain.add_metric([queue], found.drain_s)
                forecasts.load.add_metric([queue], found.load_ratio)
            if (size := _unless_broken(self._bytes, queue)) is not None:
                fronts.size.add_metric([queue], size)
        return *fronts, *forecasts

    def _memory(self) -> Iterable[Metric]:
        try:
            info = self._client.info("memory")
        except redis.exceptions.ResponseError:
            return ()  # an ACL user without INFO, which is @dangerous, still sees the queues
        families = _memory_families()
        for family, field in zip(families, ("used_memory", "maxmemory"), strict=True):
            if field in info:  # some servers that speak Redis' protocol have no maxmemory
                family.add_metric([], info[field])
        return families

    def _front(self, queue: str) -> tuple[int, float]:
        """How many jobs wait, suspects included, and how long the first of them has waited."""
        names = (keys.rq_queue(queue), keys.suspects(queue))
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.llen(name)
                pipeline.lindex(name, 0)
            answers = pipeline.execute()
        counts, heads = answers[::2], answers[1::2]
        times = [
            at
            for job_id in heads
            if job_id and len(job_id) <= MAX_ID_BYTES and (at := self._enqueued_at(job_id)) is not None
        ]
        return sum(counts), max(0.0, self._clock() - min(times)) if times else 0.0

    def _forecast(self, queue: str, depth: int) -> Forecast:
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.hmget(keys.flow(queue), _FLOW)
            pipeline.time()
            fields, (seconds, microseconds) = pipeline.execute()
        return forecast(dict(zip(_FLOW, fields, strict=True)), depth=depth, now=seconds + microseconds / 1e6)

    def _bytes(self, queue: str) -> int:
        """Bytes of the images that the queue has on the server; 0 before its first image."""
        size = cast(bytes | None, self._client.hget(keys.load(queue), "bytes")) or b""
        return int(size) if size.isdigit() and len(size) < 20 else 0

    def _enqueued_at(self, job_id: bytes) -> float | None:
        key = keys.rq_job(job_id.decode(errors="replace"))
        if self._client.hstrlen(key, "enqueued_at") > _MAX_TIME_BYTES:
            return None
        return parse_rq_time(cast(bytes | None, self._client.hget(key, "enqueued_at")))


def _unless_broken(read: Callable[..., T], *args: object) -> T | None:
    """What `read` returns; None if a key that it needs has another type."""
    try:
        return read(*args)
    except redis.exceptions.ResponseError as error:
        if not is_wrong_type(error):
            raise
        return None


def _redis_up() -> GaugeMetricFamily:
    return GaugeMetricFamily("sortline_redis_up", "1 when the Redis server answered this scrape")


class _QueueFamilies(NamedTuple):
    depth: GaugeMetricFamily
    oldest: GaugeMetricFamily
    size: GaugeMetricFamily


class _ForecastFamilies(NamedTuple):
    capacity: GaugeMetricFamily
    drain: GaugeMetricFamily
    load: GaugeMetricFamily


def _gauge(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation + _OF_ALL, labels=["queue"])


def _queue_families() -> _QueueFamilies:
    return _QueueFamilies(
        depth=_gauge("sortline_queue_depth", "Jobs waiting"),
        oldest=_gauge("sortline_queue_oldest_seconds", "Age of the job at the front; 0 when the queue is empty"),
        size=_gauge("sortline_queue_bytes", "Bytes of the images that are on the server, waiting or in a worker"),
    )


def _forecast_families() -> _ForecastFamilies:
    return _ForecastFamilies(
        capacity=_gauge(
            "sortline_queue_capacity_images_per_second",
            "What all workers can sort for this queue; 0 without workers, or while they are suspended",
        ),
        drain=_gauge(
            "sortline_queue_drain_seconds",
            "Time until the workers have sorted what waits; 0 when the queue is empty, at most 3600",
        ),
        load=_gauge(
            "sortline_queue_load_ratio",
            "Images that arrive, refused and expired ones included, over what the workers can sort; 0 when none "
            "arrive, at most 100",
        ),
    )


def _memory_families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("sortline_redis_memory_used_bytes", "Memory that the server uses"),
        GaugeMetricFamily("sortline_redis_memory_max_bytes", "The server's maxmemory; 0 when it has none"),
    )
