"""The part of a camera's picture that the model gets, and how that part becomes a square.

A fixed camera also sees the frame and the sides of the belt. Without them the bottle gets more of the model's pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shared.errors import BadSetting

# How a picture becomes a square: `stretch` squashes it; `pad` keeps its shape, and fills the rest by repeating its
# border.
Fit = Literal["stretch", "pad"]
# Stands for every camera without a region of its own. No camera has this name: `Name` allows no star.
ANY_CAMERA = "*"
# The minimum length of a side: a hundredth of a small frame is still a few pixels.
MIN_SIDE = 0.01


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle in an upright picture: 0 is its left or top edge, 1 its right or bottom.

    Raises:
        ValueError: the region is outside the picture, empty, or thinner than MIN_SIDE. pydantic reports this like its
            own errors.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        for low_name, high_name in (("left", "right"), ("top", "bottom")):
            low, high = getattr(self, low_name), getattr(self, high_name)
            if not 0 <= low < high <= 1:  # false for nan too
                raise ValueError(f"{low_name} {low:g}, {high_name} {high:g}: should be from 0 to 1, {low_name} first")
            if high - low < MIN_SIDE:
                raise ValueError(f"{low_name} {low:g} to {high_name} {high:g} is less than {MIN_SIDE:g} of the picture")

    def __str__(self) -> str:
        """The form that `parse_region` reads."""
        return ",".join(f"{side:.9g}" for side in (self.left, self.top, self.right, self.bottom))


def parse_region(text: str) -> Region:
    """Read a region from `left,top,right,bottom`, e.g. `0.1,0,0.9,1`.

    Raises:
        BadSetting: the text is not four numbers, or not a rectangle inside the picture.
    """
    try:
        sides = [float(side) for side in text.split(",")]
        if len(sides) != 4:
            raise ValueError(f"{len(sides)} numbers")
        return Region(*sides)
    except ValueError as error:
        raise BadSetting(
            f"region {text!r}: {error}. Give left,top,right,bottom as fractions of the picture, e.g. 0.1,0,0.9,1."
        ) from error


def region_of(camera: str | None, regions: Mapping[str, Region]) -> Region | None:
    """The region of the camera, or else the region of `*`, or else None, for the whole picture."""
    own = regions.get(camera) if camera is not None else None
    return own if own is not None else regions.get(ANY_CAMERA)
