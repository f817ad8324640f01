"""`trained_on.npz`: the digests of the files that a version was trained on.

They include the files that tuned the layers which the training started from. With them `evaluate` can warn that it
measures a model on images that the model has seen. Only the first 64 bits of each file's SHA-256 are kept, sorted:
eight bytes per image, and neither names nor pixels leave the training machine. When 10,000 images are compared with
10,000 training images, the chance of a false alarm is 1e8 / 2^64, about 5e-12.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.array_files import read_npz
from model_store.bundle.file_reading import open_bundle_file
from shared.errors import BadBundle

TRAINING_DIGESTS_FILE = "trained_on.npz"
ShortDigests = NDArray[np.uint64]  # the first 64 bits of each file's SHA-256
_HEX_DIGITS = 16  # of the 64 in a SHA-256: 64 bits
_MAX_BYTES = 400_000_000  # 50 million images


class TrainingDigests(NamedTuple):
    """Shortened digests, sorted: of the training images, and of the validation images that guided choices."""

    train: ShortDigests
    validation: ShortDigests

    def count_seen(self, digests: Iterable[str]) -> dict[str, int]:
        """How many of these files (SHA-256 in hex) are training images, and how many are validation images."""
        known = list(digests)
        return {"train": count_among(known, self.train), "validation": count_among(known, self.validation)}


def write_training_digests(
    folder: Path, *, train: Iterable[str], validation: Iterable[str], earlier: ShortDigests | None = None
) -> None:
    """Write the file into a bundle that is being made.

    Args:
        folder: the bundle.
        train: SHA-256 in hex of the image files' bytes.
        validation: the same.
        earlier: the digests of the images that tuned the layers which the training started from.
    """
    np.savez(
        folder / TRAINING_DIGESTS_FILE,
        train=short_digests(train, earlier=earlier),
        validation=short_digests(validation),
    )


def short_digests(digests: Iterable[str], *, earlier: ShortDigests | None = None) -> ShortDigests:
    """The first 64 bits of each SHA-256 in hex, and the `earlier` ones: sorted, each once."""
    shortened = _shortened(digests)
    return np.unique(shortened if earlier is None else np.concatenate([shortened, earlier]))


def count_among(digests: Iterable[str], known: ShortDigests) -> int:
    """How many of these files (SHA-256 in hex) are among the known ones."""
    return int(np.isin(_shortened(digests), known).sum())


def read_training_digests(folder: Path) -> TrainingDigests | None:
    """The digests of the bundle in `folder`; None if it was published without them.

    Raises:
        BadBundle: the file can't be read.
    """
    path = folder / TRAINING_DIGESTS_FILE
    if not path.is_file():
        return None
    try:
        with open_bundle_file(path) as file:
            arrays = read_npz(file, ("train", "validation"), max_bytes=_MAX_BYTES)
    except (OSError, ValueError) as error:
        raise BadBundle(f"{path} can't be read: {error}. Publish the model again.") from error
    return TrainingDigests(arrays["train"].astype(np.uint64), arrays["validation"].astype(np.uint64))


def _shortened(digests: Iterable[str]) -> ShortDigests:
    return np.array([int(digest[:_HEX_DIGITS], 16) for digest in digests], np.uint64)
