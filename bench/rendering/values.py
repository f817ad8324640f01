"""The type of the arrays here. Pictures and points are float32; numpy makes float64 of some, which does no harm."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Values = NDArray[Any]
