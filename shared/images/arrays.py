"""Type aliases for decoded images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# uint8: [H, W, 3] for one RGB image, [N, H, W, 3] for several of one size.
Pixels = NDArray[np.uint8]
# N images of one size for an engine: in one array, or in N arrays that need not be adjacent in memory.
Images = Pixels | Sequence[Pixels]
