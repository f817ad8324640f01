"""Follows the model store: keeps a worker on the current version of its model, and on the canary.

In: the store's pointer and canary, polled every few seconds. Out: models in `ActiveModels`. A new version is fetched,
verified and warmed up while the stable model works, then swapped in by changing one reference. The model that it
replaces stays loaded, so that a rollback costs nothing. At most four models are in memory: the stable one, the one
before it, a canary's, and the next one while it is loaded.

A version that fails its checks is refused. It is not tried again until another version is wanted or its files change.
A version that arrived damaged from a remote store leaves no files: it is tried again after a minute, and so is one that
is not signed, or whose isolated load was killed. If the store can't be reached or read, nothing changes: the worker
goes on with the models that it has.
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
from model_store.registry.canary_totals import CanaryTotals
from shared.errors import BadBundle, BadInput, BadSignature, EngineFailed, NotFound, SortlineError, StoreUnavailable
from worker.models.model import Model
from worker.models.routing import ActiveCanary, ActiveModels
from worker.observe.metrics import Metrics

log = logging.getLogger("sortline.follow")

# While the store can't be read, the interval between polls grows, up to this many times the usual one.
MAX_BACKOFF = 8
# How long a version that left no files here is refused. Then it is tried again: perhaps only the download was damaged,
# or somebody has repaired its source.
UNSEEN_REFUSED_S = 60.0

# Names, sizes and times of a version's files: they change when somebody repairs the version.
FilesFingerprint = tuple[tuple[str, int, int], ...]


class Refusal(NamedTuple):
    """A version that was refused.

    `folder` holds its files; None if it may succeed later, or they could not be fetched.
    """

    folder: Path | None
    files: FilesFingerprint
    at: float  # monotonic seconds

    def still_applies(self, now: float) -> bool:
        """Whether it does: the files are the same, or there are none and it is recent."""
        if self.folder is None:
            return now < self.at + UNSEEN_REFUSED_S
        return _fingerprint(self.folder) == self.files


class VersionSource(Protocol):
    """The part of the model store that the follower reads."""

    def pointer(self, name: str) -> int | None:
        """The current version of a model."""

    def canary(self, name: str) -> Canary | None:
        """The canary of a model, if there is one."""

    def resolve(self, spec: str) -> Path:
        """The local folder of a version. Fetches the version if it is not there."""


class CanaryTotalsReader(Protocol):
    """The part of `worker.canary.tally` that the follower reads."""

    def read(self, canary: Canary) -> CanaryTotals:
        """The canary's totals over all workers; raises redis.exceptions.RedisError."""


class Follower:
    """Follows one model for one worker. `start` polls on a thread until `stop`."""

    def __init__(
        self,
        active_models: ActiveModels,
        *,
        store: VersionSource,
        tally: CanaryTotalsReader,
        load: Callable[[Path], Model],
        metrics: Metrics,
        poll_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`load` verifies and warms up the bundle in a folder."""
        self._active_models = active_models
        self._name = active_models.current.stable.manifest.name
        self._store = store
        self._tally = tally
        self._load = load
        self._metrics = metrics
        self._poll_s = poll_s
        self._clock = clock
        self._previous: Model | None = None
        self._refused: dict[int, Refusal] = {}
        self._wanted: dict[str, int | None] = {}  # the versions of `current` and `canary` in the store, as last read
        self._failures = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="follow", daemon=True)

    def start(self) -> None:
        """Follow until `stop`."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the current poll, and wait at most `timeout_s` for that."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self.poll()
            except Exception as error:  # the driver of a remote store may raise anything
                self._store_unavailable(error)
            else:
                if self._failures:
                    log.info("the model store can be followed again")
                self._failures = 0
            self._stopping.wait(self._poll_s * min(MAX_BACKOFF, 1 << min(self._failures, 10)))

    def _store_unavailable(self, error: Exception) -> None:
        self._metrics.store_errors.inc()
        if not self._failures:
            trace = None if isinstance(error, OSError | SortlineError) else error
            log.error("the model store can't be followed (%s); keeping the loaded models", error, exc_info=trace)
        self._failures += 1

    def poll(self) -> None:
        """Read the store once, and serve its current version and canary.

        Raises:
            Exception: the store can't be read, a version can't be fetched, or the named version isn't there (yet).
        """
        try:
            self._follow_pointer(self._store.pointer(self._name))
        finally:  # also when the pointer can't be read: a stopped canary must end
            self._follow_canary(self._store.canary(self._name))
        wanted = self._wanted.values()
        self._refused = {version: refusal for version, refusal in self._refused.items() if version in wanted}

    def _follow_pointer(self, version: int | None) -> None:
        self._wanted["current"] = version
        before = self._active_models.current.stable
        if version is None or version == before.version:
            return
        started = time.monotonic()
        model = self._model(version)
        if model is None:
            return
        self._previous = before
        canary = self._active_models.current.canary
        self._metrics.swaps.labels("swapped").inc()  # first, so that it is counted before a result of the new model
        self._active_models.activate(model, None if canary is not None and canary.model is model else canary)
        took_s = time.monotonic() - started
        # Log the names, not the models: handlers keep their arguments, and a model is tens of megabytes.
        log.info("%s is served now, %s is kept for a rollback (%.2f s)", str(model), str(before), took_s)

    def _follow_canary(self, spec: Canary | None) -> None:
        self._wanted["canary"] = spec.version if spec else None
        serving = self._active_models.current
        canary = serving.canary
        if spec is None or spec.version == serving.stable.version or self._is_stopped(spec, canary):
            if canary is not None:
                log.info("canary %s is no longer tried", str(canary.model))
                self._active_models.activate(serving.stable, None)
            return
        if canary is not None and canary.spec == spec:
            return
        model = self._model(spec.version)
        if model is None:
            if canary is not None:  # an earlier canary is active, and no longer wanted
                self._active_models.activate(serving.stable, None)
            return
        self._active_models.activate(serving.stable, ActiveCanary(spec, model))
        log.info(
            "canary %s %s %s of the images of %s",
            str(model),
            "shadows" if spec.shadow else "takes",
            f"{spec.share:.1%}",
            ", ".join(spec.lines) or "all lines",
        )

    def _is_stopped(self, spec: Canary, canary: ActiveCanary | None) -> bool:
        """Whether a verdict has stopped the canary. Without Redis an active canary goes on, and no other begins."""
        try:
            totals = self._tally.read(spec)
        except redis.exceptions.RedisError as error:
            log.debug("no verdicts: %s", error)  # the pipeline's threads log it as an error
            return canary is None or canary.spec != spec
        if totals.compared and totals.stopped is None:
            self._metrics.show_ratio(spec.version, totals.ratio)
        return totals.stopped is not None

    def _model(self, version: int) -> Model | None:
        """The model of a version, loaded if it has to be; None when it is refused."""
        for model in self._loaded():
            if model.version == version:
                return model
        refusal = self._refused.get(version)
        return None if refusal is not None and refusal.still_applies(self._clock()) else self._load_checked(version)

    def _load_checked(self, version: int) -> Model | None:
        refusal = Refusal(None, (), self._clock())
        who = f"{self._name}@{version}"
        try:
            folder = self._store.resolve(who)
            refusal = refusal._replace(folder=folder, files=_fingerprint(folder))
            return self._checked(self._load(folder), version)
        except (OSError, NotFound, StoreUnavailable):
            raise  # not here yet, or gone while it was read: the next poll tries again
        except (BadInput, EngineFailed) as error:
            if isinstance(error, BadSignature | EngineFailed):  # it may be signed, or there may be memory, later
                refusal = refusal._replace(folder=None)
            log.error("%s is refused, %s goes on: %s", who, str(self._active_models.current.stable), error)
        except Exception:  # native code may raise anything; a version that can't be loaded must not be served
            log.exception("%s is refused, %s goes on", who, str(self._active_models.current.stable))
        self._refused[version] = refusal
        self._metrics.swaps.labels("refused").inc()
        return None

    def _checked(self, model: Model, version: int) -> Model:
        """Refuse another version in the place of this one: its signature may be good, and still it is not wanted."""
        if (model.manifest.name, model.version) != (self._name, version):
            raise BadBundle(f"its folder holds {model.manifest.name}@{model.version}.")
        return model

    def _loaded(self) -> list[Model]:
        serving = self._active_models.current
        kept = [] if self._previous is None else [self._previous]
        return [serving.stable, *kept, *([serving.canary.model] if serving.canary else [])]


def _fingerprint(folder: Path) -> FilesFingerprint:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files)
