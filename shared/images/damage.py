"""Says why a file could not be decoded. In: its bytes, and Pillow's error. Out: the BadImage that `decoding` raises."""

from __future__ import annotations

from typing import Literal

from PIL import UnidentifiedImageError

from shared.errors import BadImage
from shared.images.formats import FORMATS


def undecodable(data: bytes, content_type: str, *, error: Exception) -> BadImage:
    """The BadImage for a file for which Pillow raised `error`."""
    if "truncated" in str(error) or is_cut(data, content_type):
        return truncated(data, content_type)
    # The text of an UnidentifiedImageError holds only the address of an object.
    unread = isinstance(error, UnidentifiedImageError)
    why = "its header can't be read" if unread else f"{type(error).__name__}: {error}"
    return BadImage("corrupt", f"this {FORMATS[content_type]} is damaged, or of a kind that is not known ({why}).")


def truncated(data: bytes, content_type: str) -> BadImage:
    """The BadImage for a file whose end is missing."""
    what = f"this {FORMATS[content_type]} ends too early, after {len(data):,} bytes"
    return BadImage("truncated", f"{what}: send it when it has been written completely.")


def is_cut(data: bytes, content_type: str) -> bool:
    """Whether the container's own fields show that the end is missing."""
    size_bytes = len(data)
    match content_type:
        case "image/jpeg":
            return b"\xff\xd9" not in data[-1024:]
        case "image/png":
            return data.rfind(b"IEND") < 0
        case "image/webp":
            return int.from_bytes(data[4:8], "little") + 8 > size_bytes
        case "image/bmp":
            return int.from_bytes(data[2:6], "little") > size_bytes
        case _:  # TIFF: the directory, which many programs write last, lies beyond the end
            order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
            big = data[2:4] in (b"+\0", b"\0+")
            return int.from_bytes(data[8:16] if big else data[4:8], order) >= size_bytes
