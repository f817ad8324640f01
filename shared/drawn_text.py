"""Texts that are drawn into pictures: one line of printable characters, cut where the place ends.

Used by the demo's contact sheet and the reports' grids of images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.printable import one_line

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

# More than fits anywhere: each try to cut a text a little shorter measures all of it.
_MAX_CHARACTERS = 1_000


def drawable(text: str) -> str:
    """The text as `fitted` takes it."""
    return one_line(text, max_characters=_MAX_CHARACTERS)


def fitted(text: str, *, font: FreeTypeFont | ImageFont, width_px: int) -> str:
    """A `drawable` text; if it is too wide, its end is replaced by an ellipsis."""
    if font.getlength(text) <= width_px:
        return text
    length = len(text)
    while length and font.getlength(f"{text[:length]}…") > width_px:
        length -= 1
    return f"{text[:length]}…"
