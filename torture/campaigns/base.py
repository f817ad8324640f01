"""The type of all campaigns: a function that takes a plant and limits, and returns figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torture.plant.plant import Plant

Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long a campaign goes on. `kills` ends after a number of kills, the others after a time."""

    kills: int
    seconds: float


class Campaign(Protocol):
    """Attacks the plant, and returns figures of what it did. The images are checked afterwards."""

    def __call__(self, plant: Plant, limits: Limits) -> Figures: ...
