"""One loaded model, with everything that the steps need from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from model_store.bundle.manifest import Manifest
from model_store.engines.protocol import Engine
from shared.images.arrays import Pixels
from worker.models.decider import Decider
from worker.state.batch_cost import BatchCost
from worker.state.pixel_buffer import PixelBuffer

# One per class of the model's manifest, in its order.
Probabilities = list[float]


class Decoder(Protocol):
    """Decodes an image file of a camera to pixels, uint8 [S, S, 3]. Decoders that compare equal give equal pixels."""

    def __call__(self, data: bytes, camera: str) -> Pixels:
        """Decode to a new array; raises BadImage."""

    def decode_into(self, data: bytes, camera: str, out: Pixels) -> None:
        """Decode into `out`; raises BadImage."""

    def is_costly(self, data: bytes, camera: str) -> bool:
        """Whether decoding takes so much time or memory that no other image may wait for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """One loaded version. Versions may differ in image size, classes, policy and cost."""

    manifest: Manifest
    engine: Engine
    decoder: Decoder
    decider: Decider
    cost: BatchCost
    buffer: PixelBuffer

    @property
    def version(self) -> int:
        """Its version in the model store."""
        return self.manifest.version

    def __str__(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version} on {self.engine.name}"
