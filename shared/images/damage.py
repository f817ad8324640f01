"""Says why a file could not be decoded. In: its bytes, and Pillow's error. Out: the BadImage that `decoding` raises."""

from __future__ import annotations

from typing import Literal

from PIL import UnidentifiedImageError

from shared.errors import BadImage
from shared.images.formats import FORMATS
from shared.images.tiff_directory import read_layout

# Second byte of the markers of frame headers (ITU-T T.81, table B.1).
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def undecodable(data: bytes, content_type: str, *, error: Exception) -> BadImage:
    """The BadImage for a file for which Pillow raised `error`."""
    if "truncated" in str(error) or is_cut(data, content_type):
        return truncated(data, content_type)
    what = f"this {FORMATS[content_type]} is damaged, or of a kind that is not known"
    # The text of an UnidentifiedImageError holds only the address of an object.
    if not isinstance(error, UnidentifiedImageError):
        return BadImage("corrupt", f"{what} ({type(error).__name__}: {error}).")
    bits = _jpeg_sample_bits(data) if content_type == "image/jpeg" else 0
    if bits > 8:
        return BadImage("unsupported", f"this JPEG has {bits} bits per sample: send 8, or a 16-bit PNG or TIFF.")
    layout = read_layout(data) if content_type == "image/tiff" else None
    if layout is None or not (layout.width_px and layout.samples):
        return BadImage("corrupt", f"{what} (its header can't be read).")
    bits = layout.bits // layout.samples
    return BadImage(
        "corrupt",
        f"{what} (samples per pixel: {layout.samples}, bits per sample: {bits}): send gray of 8 or 16 bits per sample "
        "(whole numbers, no transparency), or RGB.",
    )


def _jpeg_sample_bits(data: bytes) -> int:
    """The precision in the frame header of a JPEG; 0 if there is none."""
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _JPEG_FRAMES:
            return data[at + 4]
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return 0


def truncated(data: bytes, content_type: str) -> BadImage:
    """The BadImage for a file whose end is missing."""
    what = f"this {FORMATS[content_type]} ends too early, after {len(data):,} bytes"
    return BadImage("truncated", f"{what}: was the file written completely?")


def lacks_data(data: bytes, content_type: str) -> BadImage:
    """The BadImage for a file of which a part of the picture is missing, whether or not its end mark is there."""
    if is_cut(data, content_type):
        return truncated(data, content_type)
    what = f"this {FORMATS[content_type]} of {len(data):,} bytes lacks a part of its picture"
    return BadImage("truncated", f"{what}: was the file written completely?")


def check_png(data: bytes) -> None:
    """Refuse a PNG whose end is missing, or whose header is not where it must be; Pillow would notice neither.

    Raises:
        BadImage: `truncated` or `corrupt`.
    """
    if is_cut(data, "image/png"):
        raise truncated(data, "image/png")
    if data[12:16] != b"IHDR":
        what = "this PNG is damaged, or of a kind that is not known"
        raise BadImage("corrupt", f"{what} (its first chunk is not its header).")


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
