"""Which model a job gets: the one in service, or a canary that is tried beside it.

In: an ImageJob. Out: a Route. Asked once per job, when it is decoded; what was decoded for a model runs on it,
whatever is promoted meanwhile. So a swap is one reference that changes, and never mixes, drops or delays.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_store.bundle.manifest import Manifest
from model_store.engines.protocol import Engine
from shared.schemas import ImageJob
from worker.observe.metrics import Metrics
from worker.state.pixel_buffer import BatchBuffer
from worker.steps.batch import BatchCost
from worker.steps.decide import Decider
from worker.steps.decode import Decoder

if TYPE_CHECKING:
    from model_store.registry.canary import Canary


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """One loaded version with all that the steps need of it: versions may differ in size, classes, policy, cost."""

    manifest: Manifest
    engine: Engine
    decoder: Decoder
    decider: Decider
    cost: BatchCost
    buffer: BatchBuffer

    @property
    def version(self) -> int:
        """Its version in the model store."""
        return self.manifest.version

    def __str__(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version} on {self.engine.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A canary in service: what was asked for, and the model that is tried."""

    canary: Canary
    model: Model

    def takes(self, job: ImageJob) -> bool:
        """Whether the job is of the stated share: by its id alone, so that a redelivered job gets the same model."""
        lines = self.canary.lines
        return (not lines or job.line in lines) and position(job.job_id) < self.canary.share


def position(job_id: str) -> float:
    """Where a job stands in [0, 1): evenly spread, and the same on every worker."""
    digest = hashlib.blake2b(job_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


@dataclass(frozen=True, slots=True)
class Route:
    """Whose answer acts for an image; with a trial, `other` sees the image too, for comparison."""

    model: Model
    other: Model | None = None
    trial: Trial | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """The models in service at one moment."""

    acting: Model
    trial: Trial | None = None

    def route(self, job: ImageJob) -> Route:
        """The way of one job."""
        trial = self.trial
        if trial is None or not trial.takes(job):
            return Route(self.acting)
        if trial.canary.shadow:
            return Route(self.acting, other=trial.model, trial=trial)
        return Route(trial.model, other=self.acting, trial=trial)


class Slot:
    """Where the steps find the models in service: they read `now` once and stay with what they read.

    The follower puts models in; it and the recorder take canaries out, from threads of their own.
    """

    def __init__(self, serving: Serving, *, metrics: Metrics) -> None:
        self.now = serving
        self._metrics = metrics
        self._ended: Canary | None = None
        self._changing = threading.Lock()
        self._show(serving)

    def put(self, acting: Model, trial: Trial | None) -> None:
        """Serve these from now on; a trial that has ended meanwhile stays out."""
        with self._changing:
            if trial is not None and trial.canary == self._ended:
                trial = None
            self._show(Serving(acting, trial))

    def is_on(self, trial: Trial) -> bool:
        """Whether this canary is in service."""
        now = self.now.trial
        return now is not None and now.canary == trial.canary

    def end_trial(self, trial: Trial) -> bool:
        """Serve without this canary from now on, and never put it back; False when it was out already."""
        with self._changing:
            self._ended = trial.canary
            if not self.is_on(trial):
                return False
            self._show(Serving(self.now.acting))
            return True

    def _show(self, serving: Serving) -> None:
        self.now = serving
        trial = serving.trial
        self._metrics.show_model(serving.acting.decider.model)
        if trial is None:
            self._metrics.show_canary(None)
        else:
            mode = "shadow" if trial.canary.shadow else "canary"
            self._metrics.show_canary(trial.model.decider.model, share=trial.canary.share, mode=mode)
