"""Many images, processed in batches.

Decoded images may lie in a file (`image_loading`), so that more can be trained on than fit into memory. NumPy's
`images[rows]` would copy all of these rows into memory; a `LazySubset` copies only what is asked for at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = slice | NDArray[np.intp]


@dataclass(frozen=True)
class LazySubset:
    """The N images `rows` of `images`, uint8 [M, S, S, 3], in that order: `subset[3:9]` copies six of them."""

    images: NDArray[np.uint8]
    rows: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, ...]:
        """N, S, S, 3."""
        return (len(self.rows), *self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self.images[row] for row in self.rows)

    def __getitem__(self, part: Rows) -> NDArray[np.uint8]:
        """uint8 [n, S, S, 3]: those at these indices among the N."""
        return self.images[self.rows[part]]


Images = NDArray[np.uint8] | LazySubset


def in_batches(function: Callable[[Any], Any], rows: Images | NDArray[np.float32], *, size: int) -> NDArray[np.float32]:
    """The function's results for all N >= 1 rows, float32 [N, …], computed `size` rows at a time."""
    starts = range(0, len(rows), size)
    return np.concatenate([np.asarray(function(np.ascontiguousarray(rows[at : at + size]))) for at in starts])
