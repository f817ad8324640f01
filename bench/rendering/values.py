"""The type of the arrays here. Pictures and points are float32; numpy makes some results float64, which does no harm."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Values = NDArray[Any]
