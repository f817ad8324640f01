"""Record: the thread that records a canary's comparisons.

In: comparisons and failures, from the inference threads. Out: entries and counts in Redis, and the end of a canary that
disagrees too often or fails. A verdict first takes effect in this worker, is then written to Redis for the other
workers, and then to the model store.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
from typing import NamedTuple, Protocol

import redis

from model_store.registry.canary import Canary
from model_store.registry.canary_totals import CanaryTotals
from shared.errors import EngineFailed
from shared.server.error_translation import explain
from worker.canary.tally import CanaryTally, Comparison, count_disagreements, exceeds_disagreement
from worker.models.routing import ActiveCanary, ActiveModels
from worker.observe.metrics import Metrics

log = logging.getLogger("sortline.canary")

# The most comparisons that wait to be written, of a kilobyte each. It is reached only while Redis is unavailable.
MAX_QUEUED = 2_000
# The most comparisons in one round trip.
BATCH_MAX = 64
POLL_INTERVAL_S = 0.5


class CanaryStore(Protocol):
    """The only part of the model store that a worker writes."""

    def clear_canary(self, name: str, *, only: Canary | None = None) -> bool:
        """End the canary of a model, but only if it is still `only`."""


class Verdict(NamedTuple):
    """Why a canary ends: `reason` is one stable word for the metric, `words` are for people."""

    canary: ActiveCanary
    reason: str
    words: str


class Recorder:
    """Records the comparisons of one worker on a thread of its own, and ends canaries."""

    def __init__(
        self, active_models: ActiveModels, *, tally: CanaryTally, store: CanaryStore, metrics: Metrics
    ) -> None:
        self._active_models = active_models
        self._tally = tally
        self._store = store
        self._metrics = metrics
        self._queue: queue.SimpleQueue[tuple[ActiveCanary, Comparison]] = queue.SimpleQueue()
        self._verdicts: queue.SimpleQueue[Verdict] = queue.SimpleQueue()
        self._unwritten: list[Verdict] = []
        self._is_redis_unavailable = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="canary", daemon=True)

    def start(self) -> None:
        """Record until `stop`."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Record the comparisons that wait, and end."""
        self._stopping.set()
        self._thread.join(timeout_s)

    # Called by the inference threads: neither call blocks. ───────────────────────────────────────

    def compared(self, canary: ActiveCanary, comparison: Comparison) -> None:
        """An image was seen by both models."""
        if self._queue.qsize() >= MAX_QUEUED:
            self._metrics.canary_skipped.inc()
        else:
            self._queue.put((canary, comparison))

    def failed(self, canary: ActiveCanary, error: EngineFailed) -> None:
        """The canary's engine failed where the other model did not: end the canary at once."""
        self._decide(Verdict(canary, "engine", f"its engine failed on an image that the other model answered: {error}"))

    # The thread ─────────────────────────────────────────────────────────────────────────────────────────

    def _loop(self) -> None:
        while not (self._stopping.is_set() and self._queue.empty() and self._verdicts.empty()):
            try:
                self.step(POLL_INTERVAL_S)
            except redis.exceptions.RedisError as error:
                self._redis_unavailable(error)
                if self._stopping.is_set():
                    return
            except Exception:  # a canary must not take the worker down, nor fail silently
                log.exception("recording comparisons failed")

    def step(self, timeout_s: float) -> None:
        """Record the comparisons that wait; if there are none, wait for one at most `timeout_s`.

        Raises:
            redis.exceptions.RedisError: the server can't be reached; these comparisons are not recorded.
        """
        self._write_verdicts()
        batch = self._next_batch(timeout_s)
        if not batch:
            return
        canary = batch[0][0]
        comparisons = [comparison for _, comparison in batch]
        try:
            totals = self._tally.add(canary.spec, comparisons)
        except redis.exceptions.RedisError:  # not sent again: they may be counted already
            self._metrics.canary_skipped.inc(len(comparisons))
            raise
        self._is_redis_unavailable = False
        self._metrics.count_compared(
            canary.model.version,
            compared=len(comparisons),
            disagreed=count_disagreements(comparisons),
            ratio=totals.ratio,
        )
        if totals.stopped is None and exceeds_disagreement(canary.spec, totals):
            self._decide(_disagreement_verdict(canary, totals))
            self._write_verdicts()

    def _next_batch(self, timeout_s: float) -> list[tuple[ActiveCanary, Comparison]]:
        """Comparisons of the active canary; those of a canary that has ended are dropped."""
        batch: list[tuple[ActiveCanary, Comparison]] = []
        with contextlib.suppress(queue.Empty):
            entry = self._queue.get(timeout=timeout_s)
            while True:
                if self._active_models.is_active(entry[0]):
                    batch.append(entry)
                if len(batch) >= BATCH_MAX:
                    break
                entry = self._queue.get_nowait()
        return batch

    def _decide(self, verdict: Verdict) -> None:
        if self._active_models.end_canary(verdict.canary):
            log.error("canary %s is stopped: %s", str(verdict.canary.model), verdict.words)
            self._verdicts.put(verdict)

    def _write_verdicts(self) -> None:
        """Write verdicts to Redis for all workers of this server, then to the model store if this worker may."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._unwritten.append(self._verdicts.get_nowait())
        while self._unwritten:
            verdict = self._unwritten[0]
            first = self._tally.stop(verdict.canary.spec, f"{verdict.reason}: {verdict.words}")
            self._unwritten.pop(0)
            if first:
                self._metrics.canary_stopped.labels(verdict.reason).inc()
                self._clear(verdict.canary)

    def _clear(self, canary: ActiveCanary) -> None:
        name = canary.model.manifest.name
        try:
            self._store.clear_canary(name, only=canary.spec)
        except Exception as error:  # the driver of a remote store may raise anything
            log.error(
                "the model store still names %s as canary, and can't be written from here (%s); the workers of this "
                "Redis server ignore that canary. Remove it with: sortline models canary %s --stop",
                str(canary.model),
                error,
                name,
            )

    def _redis_unavailable(self, error: Exception) -> None:
        self._metrics.server_errors.labels("canary").inc()
        if not self._is_redis_unavailable:
            log.error("comparisons can't be recorded: %s They are skipped until they can.", explain(error))
        self._is_redis_unavailable = True
        self._stopping.wait(POLL_INTERVAL_S)


def _disagreement_verdict(canary: ActiveCanary, totals: CanaryTotals) -> Verdict:
    least, share = canary.spec.min_images, f"{canary.spec.max_disagreement:.1%}"
    bound = f"more than {share}"
    if totals.compared < least:  # the remaining images can't bring the ratio below the bound
        allowed = math.floor(canary.spec.max_disagreement * least)
        bound = f"more than the {allowed:,} that {share} of {least:,} images (the minimum) allow"
    return Verdict(canary, "disagreement", f"{totals}, {bound}")
