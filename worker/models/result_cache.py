"""A cache of answers: an image file that the model has seen before costs neither decoding nor model time.

In: an admitted job and the digest of its image. Out: the probabilities that the model gave for the same file before.
The worker computes the digest (`worker.steps.decode.check_digest`): if it took the producer's word for it, a wrong one
would give one bottle the answer of another.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from shared.schemas import ImageJob
from worker.models.model import Probabilities
from worker.models.routing import Route
from worker.observe.metrics import Metrics


class CacheKey(NamedTuple):
    """Everything that an answer depends on. `camera` is empty unless the model has a crop region for each camera."""

    digest: bytes
    name: str
    version: int
    engine: str
    camera: str


class ResultCache:
    """A cache of limited size that drops the least recently used answer. For any thread."""

    def __init__(self, max_items: int, *, queues: Collection[str], metrics: Metrics) -> None:
        """Caches `max_items` answers (0: none) for `queues` only, as cameras hardly ever send the same frame twice."""
        self._max_items = max_items
        self._queues = frozenset(queues) if max_items else frozenset()
        self._hits = metrics.result_cache.labels("hit")
        self._misses = metrics.result_cache.labels("miss")
        self._answers: OrderedDict[CacheKey, Probabilities] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, job: ImageJob, digest: bytes | None, route: Route) -> CacheKey | None:
        """The key of the image with this SHA-256; None if its answer is not cached. A canary sees all its images."""
        if digest is None or job.queue not in self._queues or route.canary is not None:
            return None
        manifest = route.model.manifest
        camera = job.camera if manifest.regions else ""
        return CacheKey(digest, manifest.name, manifest.version, route.model.engine.name, camera)

    def get(self, key: CacheKey) -> Probabilities | None:
        """The cached answer, if there is one."""
        with self._lock:
            probabilities = self._answers.get(key)
            if probabilities is None:
                self._misses.inc()
                return None
            self._answers.move_to_end(key)
            self._hits.inc()
            return probabilities

    def add(self, key: CacheKey, probabilities: Probabilities) -> None:
        """Add an answer, and drop the least recently used one if there are too many."""
        with self._lock:
            self._answers[key] = probabilities
            self._answers.move_to_end(key)
            if len(self._answers) > self._max_items:
                self._answers.popitem(last=False)

    def __len__(self) -> int:
        return len(self._answers)
