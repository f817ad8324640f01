"""Subsets of many images: which images are copied into memory, and when."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.datasets.lazy_images import LazySubset, in_batches

IMAGES = np.random.default_rng(2).integers(0, 256, (9, 4, 4, 3)).astype(np.uint8)
ROWS = np.array([8, 0, 3, 3, 5])


def test_a_subset_has_the_images_of_its_rows() -> None:
    chosen = LazySubset(IMAGES, ROWS)
    assert len(chosen) == 5
    assert chosen.shape == (5, 4, 4, 3)
    np.testing.assert_array_equal(chosen[:], IMAGES[ROWS])
    np.testing.assert_array_equal(chosen[1:3], IMAGES[[0, 3]])
    np.testing.assert_array_equal(chosen[np.array([4, 0])], IMAGES[[5, 8]])
    np.testing.assert_array_equal(np.stack(list(chosen)), IMAGES[ROWS])
    assert all(np.shares_memory(image, IMAGES) for image in chosen)


@pytest.mark.parametrize("size", [1, 2, 5, 50])
def test_all_rows_are_processed_in_batches(size: int) -> None:
    asked: list[int] = []

    def brightness(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        asked.append(len(batch))
        return batch.mean(axis=(1, 2), dtype=np.float32)

    answers = in_batches(brightness, LazySubset(IMAGES, ROWS), size=size)
    np.testing.assert_array_equal(answers, IMAGES[ROWS].mean(axis=(1, 2), dtype=np.float32))
    assert sum(asked) == 5
    assert max(asked) <= size
