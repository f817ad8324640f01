"""Follow: keeps a worker on the version that the model store means, and on its canary.

In: the store's pointer and canary, looked at every few seconds. Out: models in the `Slot`. A new version is fetched,
verified and warmed beside the one at work, then swapped in by one reference; the one it replaces stays loaded, so
that a rollback costs nothing. In memory at most: the acting model, the one before it, a canary's, and while it
is loaded the next.

A version that fails its checks is refused, and not tried again until another is meant or its files change. One that
came damaged from a remote store leaves no files: it is tried again after a minute. The store away or half readable
changes nothing either: the worker goes on with what it has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import redis

from model_store.registry.canary import Canary
from shared.errors import BadInput, EngineFailed, NotFound, SortlineError, StoreUnavailable
from worker.canary.tally import CanaryBook
from worker.models.routing import Model, Slot, Trial
from worker.observe.metrics import Metrics

log = logging.getLogger("sortline.follow")

# While the store can't be read, looks get rarer, up to this many times the usual interval.
MAX_BACKOFF = 8
# How long a version is refused of which no files are here: a download may be spoilt, or its source mended since.
UNSEEN_REFUSED_S = 60.0

# Names, sizes and times of a version's files: what tells that somebody mended it.
Signature = tuple[tuple[str, int, int], ...]


class Refusal(NamedTuple):
    """What of a version was refused, and when: its files in a local folder, or (None) what the store has of it."""

    folder: Path | None
    files: Signature
    at: float  # monotonic seconds

    def stands(self, now: float) -> bool:
        """Whether nothing has changed since, or could have."""
        if self.folder is None:
            return now < self.at + UNSEEN_REFUSED_S
        return _signature(self.folder) == self.files


class Versions(Protocol):
    """The reading side of the model store, as far as it is followed."""

    def pointer(self, name: str) -> int | None:
        """The version that the name means."""

    def canary(self, name: str) -> Canary | None:
        """The canary that is to be tried."""

    def resolve(self, spec: str) -> Path:
        """The local folder of a version, fetched if it has to be."""


class Follower:
    """Follows one model for one worker; `look` is one look, `start` looks on a thread until `stop`."""

    def __init__(
        self,
        slot: Slot,
        *,
        store: Versions,
        book: CanaryBook,
        load: Callable[[Path], Model],
        metrics: Metrics,
        poll_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`load` verifies and warms up the bundle in a folder."""
        self._slot = slot
        self._name = slot.now.acting.manifest.name
        self._store = store
        self._book = book
        self._load = load
        self._metrics = metrics
        self._poll_s = poll_s
        self._clock = clock
        self._previous: Model | None = None
        self._refused: dict[int, Refusal] = {}
        self._wanted: dict[str, int | None] = {}  # what the store meant when it was last read
        self._failures = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="follow", daemon=True)

    def start(self) -> None:
        """Follow until `stop`."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the present look, which is not waited for longer than this."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except Exception as error:  # a driver of a remote store raises what it likes
                self._store_away(error)
            else:
                if self._failures:
                    log.info("the model store can be followed again")
                self._failures = 0
            self._stopping.wait(self._poll_s * min(MAX_BACKOFF, 1 << min(self._failures, 10)))

    def _store_away(self, error: Exception) -> None:
        self._metrics.store_errors.inc()
        if not self._failures:
            trace = None if isinstance(error, OSError | SortlineError) else error
            log.error("the model store can't be followed (%s); going on with what is loaded", error, exc_info=trace)
        self._failures += 1

    def look(self) -> None:
        """Look once, and serve what the store means.

        Raises:
            Exception: the store can't be read, fetched from, or names a version that isn't there (yet).
        """
        try:
            self._follow_pointer(self._store.pointer(self._name))
        finally:  # neither of the two holds up the other: a canary must go though the pointer can't be read
            self._follow_canary(self._store.canary(self._name))
        wanted = self._wanted.values()
        self._refused = {version: refusal for version, refusal in self._refused.items() if version in wanted}

    def _follow_pointer(self, version: int | None) -> None:
        self._wanted["current"] = version
        before = self._slot.now.acting
        if version is None or version == before.version:
            return
        started = time.monotonic()
        model = self._model(version)
        if model is None:
            return
        self._previous = before
        trial = self._slot.now.trial
        self._metrics.swaps.labels("swapped").inc()  # first: whoever sees a result of the new one finds it counted
        self._slot.put(model, None if trial is not None and trial.model is model else trial)
        took = time.monotonic() - started
        # Names, not the models: a log's handlers keep what they are given, and a model is tens of megabytes.
        log.info("%s is served now, %s is kept for a rollback (%.2f s)", str(model), str(before), took)

    def _follow_canary(self, canary: Canary | None) -> None:
        self._wanted["canary"] = canary.version if canary else None
        serving = self._slot.now
        trial = serving.trial
        if canary is None or canary.version == serving.acting.version or self._is_stopped(canary, trial):
            if trial is not None:
                log.info("canary %s is tried no more", str(trial.model))
                self._slot.put(serving.acting, None)
            return
        if trial is not None and trial.canary == canary:
            return
        model = self._model(canary.version)
        if model is None:
            if trial is not None:  # of another canary, which is wanted no more
                self._slot.put(serving.acting, None)
            return
        self._slot.put(serving.acting, Trial(canary, model))
        log.info(
            "canary %s %s %g of the images of %s",
            str(model),
            "shadows" if canary.shadow else "takes",
            canary.share,
            ", ".join(canary.lines) or "all lines",
        )

    def _is_stopped(self, canary: Canary, trial: Trial | None) -> bool:
        """Whether a verdict stands against it. Redis away: what is tried goes on, what isn't does not begin."""
        try:
            totals = self._book.read(canary)
        except redis.exceptions.RedisError as error:
            log.debug("no verdicts: %s", error)  # the pipeline's loops say so aloud
            return trial is None or trial.canary != canary
        if totals.compared and totals.stopped is None:
            self._metrics.show_ratio(canary.version, totals.ratio)
        return totals.stopped is not None

    def _model(self, version: int) -> Model | None:
        """The version, loaded; None when it is refused."""
        for model in self._loaded():
            if model.version == version:
                return model
        refusal = self._refused.get(version)
        return None if refusal is not None and refusal.stands(self._clock()) else self._load_checked(version)

    def _load_checked(self, version: int) -> Model | None:
        refusal = Refusal(None, (), self._clock())
        who = f"{self._name}@{version}"
        try:
            folder = self._store.resolve(who)
            refusal = refusal._replace(folder=folder, files=_signature(folder))
            return self._load(folder)
        except (OSError, NotFound, StoreUnavailable):
            raise  # not here yet, or gone while it was read: look again
        except (BadInput, EngineFailed) as error:
            log.error("%s is refused, %s goes on: %s", who, str(self._slot.now.acting), error)
        except Exception:  # native code raises what it likes; what can't be loaded must not be served
            log.exception("%s is refused, %s goes on", who, str(self._slot.now.acting))
        self._refused[version] = refusal
        self._metrics.swaps.labels("refused").inc()
        return None

    def _loaded(self) -> list[Model]:
        serving = self._slot.now
        kept = [] if self._previous is None else [self._previous]
        return [serving.acting, *kept, *([serving.trial.model] if serving.trial else [])]


def _signature(folder: Path) -> Signature:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files)
