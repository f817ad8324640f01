"""Subsets of images that may not fit into memory, copied a few at a time, and a function's answers to them in batches.

Decoded images may lie in a file (`image_loading`), so that training can use more of them than fit into memory. NumPy's
`images[rows]` would copy all these rows into memory; a LazySubset copies only the rows that are asked for at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.arrays import Floats, Indices
from shared.images.arrays import Pixels

Rows = slice | Indices


@dataclass(frozen=True)
class LazySubset:
    """The N images that `rows` selects from `images`, uint8 [M, S, S, 3], in that order. `subset[3:9]` copies six."""

    images: Pixels
    rows: Indices

    @property
    def shape(self) -> tuple[int, ...]:
        """N, S, S, 3."""
        return (len(self.rows), *self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Pixels]:
        return (self.images[row] for row in self.rows)

    def __getitem__(self, part: Rows) -> Pixels:
        """uint8 [n, S, S, 3]: the images at these positions among the N."""
        return self.images[self.rows[part]]


# uint8 [N, S, S, 3], in memory or not.
ImageStack = Pixels | LazySubset


def in_batches(answer: Callable[[Any], Any], rows: ImageStack | Floats, *, size: int) -> Floats:
    """Call `answer` on N >= 1 rows, `size` rows at a time; returns all its answers, float32 [N, …]."""
    starts = range(0, len(rows), size)
    return np.concatenate([np.asarray(answer(np.ascontiguousarray(rows[at : at + size]))) for at in starts])
