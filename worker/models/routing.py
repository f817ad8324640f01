"""Chooses the model of a job: the stable model, or a canary that is tried on a share of the images.

In: an ImageJob. Out: a Route. A job is routed once, when it is decoded, and then runs on that model even if another
one is promoted meanwhile. So a swap changes one reference, and never mixes, drops or delays jobs.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass

from model_store.registry.canary import Canary
from shared.schemas import ImageJob
from worker.models.model import Model
from worker.observe.metrics import Metrics


@dataclass(frozen=True, slots=True, eq=False)
class ActiveCanary:
    """A canary in service: its entry in the model store, and its model."""

    spec: Canary
    model: Model

    def takes(self, job: ImageJob) -> bool:
        """Whether the job is in the canary's share. Line and id decide, so a redelivered job gets the same model."""
        lines = self.spec.lines
        return (not lines or job.line in lines) and hash_fraction(job.job_id) < self.spec.share


def hash_fraction(job_id: str, *, purpose: bytes = b"") -> float:
    """A hash of the job's id in [0, 1): evenly distributed, and the same on every worker.

    Shares for different purposes are independent of each other. A purpose has at most 16 bytes.
    """
    digest = hashlib.blake2b(job_id.encode(errors="surrogateescape"), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest) / 2**64


@dataclass(frozen=True, slots=True)
class Route:
    """The model whose answer sorts an image. With a canary, `other` sees the image too, for comparison."""

    model: Model
    other: Model | None = None
    canary: ActiveCanary | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """The models in service at one moment."""

    stable: Model
    canary: ActiveCanary | None = None

    def route(self, job: ImageJob) -> Route:
        """The route of one job."""
        canary = self.canary
        if canary is None or not canary.takes(job):
            return Route(self.stable)
        if canary.spec.shadow:
            return Route(self.stable, other=canary.model, canary=canary)
        return Route(canary.model, other=self.stable, canary=canary)


class ActiveModels:
    """The models in service. A step reads `current` once for a job and keeps to what it read.

    The follower activates models; the follower and the recorder end canaries, each on its own thread.
    """

    def __init__(self, serving: Serving, *, metrics: Metrics) -> None:
        self.current = serving
        self._metrics = metrics
        self._ended: Canary | None = None
        self._lock = threading.Lock()
        self._show(serving)

    def activate(self, stable: Model, canary: ActiveCanary | None) -> None:
        """Serve these models from now on, without the canary if it was ended meanwhile."""
        with self._lock:
            if canary is not None and canary.spec == self._ended:
                canary = None
            self._show(Serving(stable, canary))

    def is_active(self, canary: ActiveCanary) -> bool:
        """Whether this canary is in service now."""
        now = self.current.canary
        return now is not None and now.spec == canary.spec

    def end_canary(self, canary: ActiveCanary) -> bool:
        """Serve without this canary from now on, for good; False when it was not in service any more."""
        with self._lock:
            self._ended = canary.spec
            if not self.is_active(canary):
                return False
            self._show(Serving(self.current.stable))
            return True

    def _show(self, serving: Serving) -> None:
        self.current = serving
        canary = serving.canary
        self._metrics.show_model(serving.stable.decider.model)
        if canary is None:
            self._metrics.show_canary(None)
        else:
            mode = "shadow" if canary.spec.shadow else "canary"
            self._metrics.show_canary(canary.model.decider.model, share=canary.spec.share, mode=mode)
