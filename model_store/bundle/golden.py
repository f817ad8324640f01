"""`golden.npz`: images of a bundle with the answers that its models gave when it was made.

In: a folder or an opened bundle. Out: a Golden whose shapes fit the manifest. `engines.golden_check` makes an engine
answer the images again.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_store.bundle.array_files import read_npz
from model_store.bundle.file_reading import open_bundle_file
from model_store.bundle.files import Bundle
from model_store.bundle.manifest import GOLDEN_FILE
from shared.arrays import Floats
from shared.errors import BadBundle
from shared.images.arrays import Pixels

# Sortline writes at most 16 images. Of the largest size that a backbone may have, 2048 px, they take 201 MB.
_MAX_BYTES = 256_000_000


class Golden(NamedTuple):
    """The golden images of a bundle, and the answers that its models gave when it was made.

    `images` is uint8 [N, S, S, 3]; `float32` and `int8` are float32 [N, C]: the probabilities of the float model, and
    those of the engine `litert`, which may let the float model recheck the int8 model.
    """

    images: Pixels
    float32: Floats
    int8: Floats


def write_golden(folder: Path, golden: Golden) -> None:
    """Write `golden.npz` into a bundle that is being made.

    Choose images whose probabilities are further from the thresholds than the tolerances of
    `engines.golden_check`: near a threshold another CPU may legitimately decide on another label, and would then
    refuse the bundle.
    """
    np.savez_compressed(folder / GOLDEN_FILE, images=golden.images, float=golden.float32, int8=golden.int8)


def read_golden(bundle: Bundle) -> Golden:
    """Read the golden images and their expected answers.

    Raises:
        BadBundle: the file can't be read, or its shapes don't fit the manifest.
    """
    path = bundle.path / GOLDEN_FILE
    try:
        with open_bundle_file(path) as file:
            arrays = read_npz(file, ("images", "float", "int8"), max_bytes=_MAX_BYTES)
    except (OSError, ValueError) as error:
        raise BadBundle(f"{path} can't be read: {error}. Publish the model again.") from error
    golden = Golden(arrays["images"], arrays["float"].astype(np.float32), arrays["int8"].astype(np.float32))
    size_px, count = bundle.manifest.input_size_px, golden.images.shape[0] if golden.images.ndim else 0
    expected_shape = (count, len(bundle.manifest.classes))
    if count == 0 or golden.images.shape != (count, size_px, size_px, 3) or golden.images.dtype != np.uint8:
        raise BadBundle(
            f"{path}: images are {golden.images.dtype}{list(golden.images.shape)}, "
            f"but should be uint8[N >= 1, {size_px}, {size_px}, 3]. Publish the model again."
        )
    if golden.float32.shape != expected_shape or golden.int8.shape != expected_shape:
        raise BadBundle(
            f"{path}: answers are {list(golden.float32.shape)} and {list(golden.int8.shape)}, "
            f"but should be {list(expected_shape)}. Publish the model again."
        )
    return golden
