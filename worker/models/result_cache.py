"""Answers remembered by image: the same file shown to the same model again costs neither decoding nor model time.

In: an admitted job and its image. Out: the row of probabilities that the model gave it before. The file's digest is
computed here: what a producer says of its image may be wrong, and would give one bottle another's answer.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from shared.schemas import ImageJob
from worker.models.model import Row
from worker.models.routing import Route
from worker.observe.metrics import Metrics


class Key(NamedTuple):
    """All that an answer depends on. `camera` only where the model cuts its own part out of each camera's frames."""

    digest: bytes
    name: str
    version: int
    engine: str
    camera: str


class ResultCache:
    """The answers of the images asked for last, at most so many. May be used by many threads."""

    def __init__(self, max_items: int, *, queues: Collection[str], metrics: Metrics) -> None:
        """Remembers `max_items` answers (0: none) to images of `queues`: cameras hardly send the same frame twice."""
        self._max_items = max_items
        self._queues = frozenset(queues) if max_items else frozenset()
        self._hits = metrics.result_cache.labels("hit")
        self._misses = metrics.result_cache.labels("miss")
        self._rows: OrderedDict[Key, Row] = OrderedDict()
        self._using = threading.Lock()

    def key(self, job: ImageJob, image: bytes | None, route: Route) -> Key | None:
        """What to ask and remember by; None where nothing is to be remembered: a trial is to see its images itself."""
        if image is None or job.queue not in self._queues or route.trial is not None:
            return None
        manifest = route.model.manifest
        camera = job.camera if manifest.regions else ""
        digest = hashlib.sha256(image).digest()
        return Key(digest, manifest.name, manifest.version, route.model.engine.name, camera)

    def get(self, key: Key) -> Row | None:
        """The answer, if it is remembered."""
        with self._using:
            row = self._rows.get(key)
            if row is None:
                self._misses.inc()
                return None
            self._rows.move_to_end(key)
            self._hits.inc()
            return row

    def put(self, key: Key, row: Row) -> None:
        """Remember an answer, and forget the one that nobody has asked for longest."""
        with self._using:
            self._rows[key] = row
            self._rows.move_to_end(key)
            if len(self._rows) > self._max_items:
                self._rows.popitem(last=False)

    def __len__(self) -> int:
        return len(self._rows)
