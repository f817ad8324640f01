"""Record: the recorder thread of a canary. In: comparisons and failures, from the inference thread. Out: entries and
counts in Redis, and the end of a canary that crosses its bound or fails.

A verdict is obeyed here first, then written to Redis for the other workers, then to the model store.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from typing import NamedTuple, Protocol

import redis

from model_store.registry.canary import Canary
from shared.errors import EngineFailed
from shared.server.error_translation import explain
from worker.canary.tally import CanaryBook, Comparison, count_disagreements, is_outvoted
from worker.models.routing import Slot, Trial
from worker.observe.metrics import Metrics
from worker.state.canary_totals import Totals

log = logging.getLogger("sortline.canary")

# Comparisons on their way to Redis; more than this only while it is away. They are a kilobyte each.
MAX_QUEUED = 2_000
# In one round trip.
BATCH_MAX = 64
LOOK_S = 0.5


class CanaryStore(Protocol):
    """The one thing that a worker ever writes in the model store."""

    def clear_canary(self, name: str, *, only: Canary | None = None) -> bool:
        """End the canary of a model, if it is `only`."""


class Verdict(NamedTuple):
    """Why a canary ends: `reason` is one stable word for counting, `words` are for people."""

    trial: Trial
    reason: str
    words: str


class Recorder:
    """Keeps the books of one worker's canaries, on a thread of its own."""

    def __init__(self, slot: Slot, *, book: CanaryBook, store: CanaryStore, metrics: Metrics) -> None:
        self._slot = slot
        self._book = book
        self._store = store
        self._metrics = metrics
        self._queue: queue.SimpleQueue[tuple[Trial, Comparison]] = queue.SimpleQueue()
        self._verdicts: queue.SimpleQueue[Verdict] = queue.SimpleQueue()
        self._unwritten: list[Verdict] = []
        self._away = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="canary", daemon=True)

    def start(self) -> None:
        """Record until `stop`."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Record what is there, and end."""
        self._stopping.set()
        self._thread.join(timeout_s)

    # From the inference thread: neither call waits for anything. ────────────────────────────────────────

    def compared(self, trial: Trial, comparison: Comparison) -> None:
        """Two models saw an image."""
        if self._queue.qsize() >= MAX_QUEUED:
            self._metrics.canary_skipped.inc()
        else:
            self._queue.put((trial, comparison))

    def failed(self, trial: Trial, error: EngineFailed) -> None:
        """The canary's engine failed where the other model did not: it acts no more, from this moment on."""
        self._decide(Verdict(trial, "engine", f"its engine failed on an image that the other model answered: {error}"))

    # The thread ─────────────────────────────────────────────────────────────────────────────────────────

    def _loop(self) -> None:
        while not (self._stopping.is_set() and self._queue.empty() and self._verdicts.empty()):
            try:
                self.step(LOOK_S)
            except redis.exceptions.RedisError as error:
                self._redis_away(error)
                if self._stopping.is_set():
                    return
            except Exception:  # a canary must not take the worker down, nor end without a word
                log.exception("recording comparisons failed")

    def step(self, timeout_s: float) -> None:
        """Record what is there; waits for it at most `timeout_s`.

        Raises:
            redis.exceptions.RedisError: the server can't be reached; what was at hand is not recorded.
        """
        self._write_verdicts()
        batch = self._next_batch(timeout_s)
        if not batch:
            return
        trial = batch[0][0]
        comparisons = [comparison for _, comparison in batch]
        try:
            totals = self._book.add(trial.canary, comparisons)
        except redis.exceptions.RedisError:  # not sent again: they may be counted already
            self._metrics.canary_skipped.inc(len(comparisons))
            raise
        self._away = False
        self._metrics.count_compared(
            trial.model.version,
            compared=len(comparisons),
            disagreed=count_disagreements(comparisons),
            ratio=totals.ratio,
        )
        if totals.stopped is None and is_outvoted(trial.canary, totals):
            self._decide(_outvoted(trial, totals))
            self._write_verdicts()

    def _next_batch(self, timeout_s: float) -> list[tuple[Trial, Comparison]]:
        """Comparisons of one trial: what is left of one that has ended is dropped."""
        batch: list[tuple[Trial, Comparison]] = []
        with contextlib.suppress(queue.Empty):
            entry = self._queue.get(timeout=timeout_s)
            while True:
                if self._slot.is_on(entry[0]):
                    batch.append(entry)
                if len(batch) >= BATCH_MAX:
                    break
                entry = self._queue.get_nowait()
        return batch

    def _decide(self, verdict: Verdict) -> None:
        if self._slot.end_trial(verdict.trial):
            log.error("canary %s is stopped: %s", str(verdict.trial.model), verdict.words)
            self._verdicts.put(verdict)

    def _write_verdicts(self) -> None:
        """To Redis, for every worker of this server; then to the store, if this worker may write it."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._unwritten.append(self._verdicts.get_nowait())
        while self._unwritten:
            verdict = self._unwritten[0]
            first = self._book.stop(verdict.trial.canary, f"{verdict.reason}: {verdict.words}")
            self._unwritten.pop(0)
            if first:
                self._metrics.canary_stopped.labels(verdict.reason).inc()
                self._clear(verdict.trial)

    def _clear(self, trial: Trial) -> None:
        name = trial.model.manifest.name
        try:
            self._store.clear_canary(name, only=trial.canary)
        except Exception as error:  # a driver of a remote store raises what it likes
            log.error(
                "the model store still names %s as canary, and can't be written from here (%s); workers of this server "
                "ignore it. Take it out: sortline models canary %s --stop",
                str(trial.model),
                error,
                name,
            )

    def _redis_away(self, error: Exception) -> None:
        self._metrics.server_errors.labels("canary").inc()
        if not self._away:
            log.error("comparisons can't be recorded: %s They are skipped until they can.", explain(error))
        self._away = True
        self._stopping.wait(LOOK_S)


def _outvoted(trial: Trial, totals: Totals) -> Verdict:
    words = (
        f"{totals.disagreed} of {totals.compared} compared images were answered differently, "
        f"more than {trial.canary.max_disagreement:.1%} (of at least {trial.canary.min_images})"
    )
    return Verdict(trial, "disagreement", words)
