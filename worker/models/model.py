"""One loaded model: all that the steps need of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from model_store.bundle.manifest import Manifest
from model_store.engines.loading import Engine
from worker.models.decider import Decider
from worker.state.batch_cost import BatchCost
from worker.state.pixel_buffer import BatchBuffer, Pixels

Row = list[float]


class Decoder(Protocol):
    """Raw bytes of an image file and its camera to pixels, uint8 [size, size, 3]. Equal ones give equal pixels."""

    def __call__(self, data: bytes, camera: str) -> Pixels:
        """As a fresh array; raises BadImage."""

    def decode_into(self, data: bytes, camera: str, out: Pixels) -> None:
        """Into `out`; raises BadImage."""


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
