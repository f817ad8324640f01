"""What every engine checks of its model's answer before anybody acts on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.errors import EngineFailed


def check_answer(answer: NDArray[np.float32], *, images: int, classes_count: int, engine: str) -> NDArray[np.float32]:
    """The answer itself, when it is one row of `classes_count` finite numbers for each of `images`.

    Raises:
        EngineFailed: it isn't.
    """
    if answer.shape != (images, classes_count):
        raise EngineFailed(
            f"engine {engine} answered {list(answer.shape)} for {images} images of {classes_count} classes. "
            "Run `sortline models verify`."
        )
    if not np.isfinite(answer).all():
        row = int(np.flatnonzero(~np.isfinite(answer).all(axis=1))[0])
        raise EngineFailed(f"engine {engine} answered {answer[row].tolist()} for image {row} of {images}.")
    return answer
