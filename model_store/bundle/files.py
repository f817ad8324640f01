"""A bundle, one published version of one model: opened, checked, and made to prove itself.

In: a folder. Out: a Bundle whose every file has the digest that its manifest gives. Whoever serves a
bundle goes through `open_bundle` and `model_store.engines.loading.open_engine`.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import ValidationError

from model_store.bundle.manifest import GOLDEN_FILE, MANIFEST_FILE, Manifest
from model_store.bundle.policy import decide
from shared.errors import BadBundle
from shared.schemas import ModelRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_store.engines.loading import Engine

# Float engines sum in another order on another CPU (vector width, threads), which moves a probability
# by some 1e-6, and by up to 1e-4 where it first moves the place that a bottle is cut out of (8.2e-5 measured between
# TensorFlow and LiteRT). 1e-3 leaves room for that and for a GPU, and is far below what any policy can notice.
FLOAT_TOLERANCE = 1e-3
# An int8 probability moves in steps of about 1/256, and a rounding that goes the other way in one layer
# (another CPU's instructions) can grow to a few steps at the output. So a dozen steps are allowed, and
# the labels must be the same: that, not the digits, is what sends a bottle to a lane.
INT8_TOLERANCE = 0.05
# Half precision has 11 bits of mantissa, and moved probabilities by up to 0.004, and by 0.011 where it moves the place
# that a bottle is cut out of. GPUs sum in other orders: four times that, and as with int8 the same labels.
MIXED_TOLERANCE = 0.05

_ROUNDED = {"litert": INT8_TOLERANCE, "tensorflow-mixed": MIXED_TOLERANCE}


@dataclass(frozen=True)
class Bundle:
    """A folder whose files are all there and unchanged."""

    path: Path
    manifest: Manifest

    def ref(self, engine: str) -> ModelRef:
        """How results name this model when `engine` runs it."""
        return ModelRef(name=self.manifest.name, version=self.manifest.version, engine=engine)


class Golden(NamedTuple):
    """Images and the answers that the bundle gave for them when it was made.

    `images` is uint8 [N, S, S, 3]; `float32` and `int8` are float32 [N, C]: the probabilities of the
    float model and of the int8 model.
    """

    images: NDArray[np.uint8]
    float32: NDArray[np.float32]
    int8: NDArray[np.float32]


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder`, by its path with `/`; `manifest.json` itself left out.

    Raises:
        BadBundle: something is neither a file nor a folder (a link would not survive a copy), or can't be read.
    """
    try:
        return dict(_digests(folder))
    except OSError as error:  # most likely deleted meanwhile
        path = error.filename or folder
        raise BadBundle(f"{path} can't be read: {error.strerror}. Publish the model again.") from error


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise BadBundle(f"{path} is neither a plain file nor a folder: a bundle may hold only those.")
        name = path.relative_to(folder).as_posix()
        if stat.S_ISREG(mode) and name != MANIFEST_FILE:
            with path.open("rb") as file:
                yield name, hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle in folder `path`; its files are not looked at.

    Raises:
        BadBundle: there is none, or it doesn't parse.
    """
    try:
        data = (path / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise BadBundle(
            f"{path} has no readable {MANIFEST_FILE}: {error.strerror}. Publish the model again."
        ) from error
    return parse_manifest(data, where=f"{path / MANIFEST_FILE}")


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """The manifest whose file holds `data`; `where` names the file in the error.

    Raises:
        BadBundle: it doesn't parse.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BadBundle(f"{where} is not a manifest of this release: {error}") from error


def open_bundle(path: Path) -> Bundle:
    """Open the bundle in folder `path` after checking every file of it.

    Raises:
        BadBundle: the manifest doesn't parse, a listed file is missing or changed, or a file is there
            that isn't listed; names the file.
    """
    manifest = read_manifest(path)
    _compare_digests(path, expected=manifest.files, found=file_digests(path))
    return Bundle(path, manifest)


def _compare_digests(path: Path, *, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    mend = "Copy the bundle again from where it came, or publish the model again."
    if missing := sorted(expected.keys() - found.keys()):
        raise BadBundle(f"{path}: {missing[0]} is missing ({len(missing)} missing in all). {mend}")
    if unlisted := sorted(found.keys() - expected.keys()):
        raise BadBundle(
            f"{path}: {unlisted[0]} is not listed in {MANIFEST_FILE} ({len(unlisted)} unlisted in all). "
            "Move it out of the bundle."
        )
    for name, digest in expected.items():
        if found[name] != digest:
            raise BadBundle(f"{path}: {name} has SHA-256 {found[name]}, its manifest says {digest}. {mend}")


def write_golden(folder: Path, golden: Golden) -> None:
    """Write `golden.npz` into a bundle that is being made.

    Choose images whose probabilities keep away from the thresholds by more than INT8_TOLERANCE: near a
    threshold another CPU may rightly come to another label, and would then refuse the bundle.
    """
    np.savez_compressed(folder / GOLDEN_FILE, images=golden.images, float=golden.float32, int8=golden.int8)


def golden(bundle: Bundle) -> Golden:
    """Read the golden images and answers.

    Raises:
        BadBundle: the file can't be read, or its shapes don't fit the manifest.
    """
    path = bundle.path / GOLDEN_FILE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            read = Golden(
                images=arrays["images"],
                float32=arrays["float"].astype(np.float32),
                int8=arrays["int8"].astype(np.float32),
            )
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadBundle(f"{path} can't be read: {error!r}. Publish the model again.") from error
    size_px, count = bundle.manifest.input_size_px, len(read.images)
    answers = (count, len(bundle.manifest.classes))
    if count == 0 or read.images.shape != (count, size_px, size_px, 3) or read.images.dtype != np.uint8:
        raise BadBundle(
            f"{path}: images are {read.images.dtype}{list(read.images.shape)}, "
            f"should be uint8[N >= 1, {size_px}, {size_px}, 3]. Publish the model again."
        )
    if read.float32.shape != answers or read.int8.shape != answers:
        raise BadBundle(
            f"{path}: answers are {list(read.float32.shape)} and {list(read.int8.shape)}, "
            f"should be {list(answers)}. Publish the model again."
        )
    return read


def replay_golden(bundle: Bundle, engine: Engine) -> None:
    """Have `engine` answer the golden images, all in one batch, and compare.

    Raises:
        BadBundle: an answer is further off than the engine's tolerance, or (int8, mixed) gives other labels;
            says by how much.
        EngineFailed: the engine couldn't answer at all.
    """
    expected = golden(bundle)
    answers = engine.predict(np.ascontiguousarray(expected.images))
    wanted = expected.int8 if engine.name == "litert" else expected.float32
    tolerance = _ROUNDED.get(engine.name, FLOAT_TOLERANCE)
    differences = np.abs(answers - wanted).max(axis=1)
    worst = int(differences.argmax())
    who = f"{bundle.path} on engine {engine.name}"
    # Not `>`: a difference that is not a number must not pass.
    if not differences[worst] <= tolerance:
        raise BadBundle(
            f"{who}: golden image {worst} is answered {differences[worst]:.6f} off (allowed {tolerance}). "
            "The model does not do here what it did when it was made: publish it again, or take another --engine."
        )
    if engine.name not in _ROUNDED:
        return
    for index, (got, want) in enumerate(zip(answers.tolist(), wanted.tolist(), strict=True)):
        if (is_now := _labels(bundle, got)) != (was := _labels(bundle, want)):
            raise BadBundle(
                f"{who}: golden image {index} is {sorted(is_now)}, was {sorted(was)} when the model was made "
                f"(worst difference {differences[worst]:.6f}). Publish it again, or take another --engine."
            )


def _labels(bundle: Bundle, probabilities: list[float]) -> set[str]:
    manifest = bundle.manifest
    return {
        name for name, _ in decide(probabilities, manifest.classes, mode=manifest.mode, policy=manifest.policy).labels
    }
