"""Metrics of the queues and the server, read from the server when they are scraped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import redis
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared import keys
from shared.rq_time import parse_rq_time
from shared.server.error_translation import is_wrong_type


class QueueGauges(Collector):
    """Depth and oldest age of each queue, and the server's memory, read from the server when scraped.

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
        """`sortline_queue_depth`, `sortline_queue_oldest_seconds`, the server's memory, and whether it answered."""
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
                continue  # a broken key costs only the gauges of its own queue
            depth.add_metric([queue], count)
            oldest.add_metric([queue], age_s)
        return depth, oldest

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
        times = [at for job_id in heads if job_id and (at := self._enqueued_at(job_id)) is not None]
        return sum(counts), max(0.0, self._clock() - min(times)) if times else 0.0

    def _enqueued_at(self, job_id: bytes) -> float | None:
        key = keys.rq_job(job_id.decode(errors="replace"))
        return parse_rq_time(cast(bytes | None, self._client.hget(key, "enqueued_at")))


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
