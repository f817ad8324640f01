"""Many images of which only some are copied into memory at a time, and the answers of a function to all of them.

Decoded images may lie in a file (`image_loading`), so that training can use more of them than fit into memory. NumPy's
`images[rows]` would copy all these rows into memory; a LazySubset copies only what is asked for at a time.
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
    """The N images `rows` of `images`, uint8 [M, S, S, 3], in that order: `subset[3:9]` copies six of them."""

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
    """The answers to all N >= 1 rows, float32 [N, …], asked for `size` rows at a time."""
    starts = range(0, len(rows), size)
    return np.concatenate([np.asarray(answer(np.ascontiguousarray(rows[at : at + size]))) for at in starts])
