"""The checks that every engine makes: of the batch before the model runs, and of the answer before anybody acts on it.

The models themselves check nothing. An image of the wrong size passes through convolutions and a mean just as well, and
gives a wrong answer.
"""

from __future__ import annotations

import numpy as np

from shared.arrays import Floats
from shared.errors import EngineFailed
from shared.images.arrays import Images


def check_batch(batch: Images, *, input_size_px: int, engine: str) -> None:
    """Refuse a batch that is not N >= 1 images, uint8 [S, S, 3] each.

    Raises:
        EngineFailed: the message describes the batch.
    """
    shape = (input_size_px, input_size_px, 3)
    if len(batch) == 0 or any(image.dtype != np.uint8 or image.shape != shape for image in batch):
        raise EngineFailed(
            f"engine {engine} was given {describe_batch(batch)}, "
            f"but takes uint8[N >= 1, {input_size_px}, {input_size_px}, 3]."
        )


def describe_batch(batch: Images) -> str:
    """Type and shape of a batch for an error message, e.g. `uint8[16, 224, 224, 3]`."""
    if isinstance(batch, np.ndarray):
        return f"{batch.dtype}{list(batch.shape)}"
    kinds = {f"{image.dtype}[{', '.join(map(str, (len(batch), *image.shape)))}]" for image in batch}
    return " and ".join(sorted(kinds)) or "nothing"


def check_answer(answer: Floats, *, images: int, classes_count: int, engine: str) -> Floats:
    """Return the answer if it has one row of `classes_count` finite numbers for each of `images`.

    Raises:
        EngineFailed: the answer has another shape, or a number in it is not finite.
    """
    if answer.shape != (images, classes_count):
        raise EngineFailed(
            f"engine {engine} gave an answer of shape {list(answer.shape)}, but should give "
            f"{[images, classes_count]} (images, classes). Run `sortline models verify`."
        )
    if not np.isfinite(answer).all():
        row = int(np.flatnonzero(~np.isfinite(answer).all(axis=1))[0])
        raise EngineFailed(
            f"engine {engine} gave numbers that are not finite for image {row} of {images}: {answer[row].tolist()}. "
            "Run `sortline models verify`."
        )
    return answer
