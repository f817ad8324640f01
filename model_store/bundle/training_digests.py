"""`trained_on.npz`: which image files a version was trained on, so that `evaluate` can say when it is flattered.

Only the first 64 bits of each file's SHA-256, sorted: eight bytes an image, and neither names nor pictures leave
the training machine with the bundle. Among 10,000 images measured against 10,000 trained on, the chance of
a false alarm is 1e8 / 2^64, some 5e-12.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadBundle

TRAINED_ON_FILE = "trained_on.npz"
_HEX_DIGITS = 16  # of the 64 in a SHA-256: 64 bits


class TrainedOn(NamedTuple):
    """Shortened digests, uint64, sorted: of the images that were learnt from, and of those it was chosen by."""

    train: NDArray[np.uint64]
    validation: NDArray[np.uint64]

    def seen(self, digests: Iterable[str]) -> dict[str, int]:
        """How many of these files (SHA-256 in hex) are among each."""
        asked = _shortened(digests)
        return {
            "train": int(np.isin(asked, self.train).sum()),
            "validation": int(np.isin(asked, self.validation).sum()),
        }


def write_trained_on(folder: Path, *, train: Iterable[str], validation: Iterable[str]) -> None:
    """Write the file into a bundle that is being made; digests are SHA-256 in hex of the image files' bytes."""
    np.savez(folder / TRAINED_ON_FILE, train=np.unique(_shortened(train)), validation=np.unique(_shortened(validation)))


def read_trained_on(folder: Path) -> TrainedOn | None:
    """What the bundle in `folder` says; None for one that was published without.

    Raises:
        BadBundle: the file can't be read.
    """
    path = folder / TRAINED_ON_FILE
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return TrainedOn(arrays["train"].astype(np.uint64), arrays["validation"].astype(np.uint64))
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadBundle(f"{path} can't be read: {error!r}. Publish the model again.") from error


def _shortened(digests: Iterable[str]) -> NDArray[np.uint64]:
    return np.array([int(digest[:_HEX_DIGITS], 16) for digest in digests], np.uint64)
