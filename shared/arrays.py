"""Type aliases for numeric arrays. The aliases for images are in `shared.images.arrays`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]
