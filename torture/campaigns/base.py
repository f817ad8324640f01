"""What all campaigns are: functions from a plant and its limits to figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torture.plant import Plant

Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much is done: whichever of these a campaign goes by."""

    kills: int
    seconds: float


class Campaign(Protocol):
    """Torments the plant; what it did, by name. What became of it is checked afterwards."""

    def __call__(self, plant: Plant, limits: Limits) -> Figures: ...
