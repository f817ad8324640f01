"""Refuses images that are too large before any pixel is decoded: by file length, pixel count and estimated memory.

In: a file's bytes, or its header as Pillow read it. Out: BadImage, or the number of bytes that decoding takes at its
peak.

The estimates are upper bounds, measured with Pillow 13; tests/shared/images/test_decode_memory.py checks them. Per
pixel:

    stored          1 byte (L, P, 1), 2 (16-bit gray) or 4 (all others, RGB included), and 16 bytes per row
    converted       1 more to gray, 4 more to RGB, 4 more if there is transparency
    WebP            two canvases and two copies of the frame, 4 bytes each; 4 more with transparency
    JPEG            2 bytes per sample while several scans are put together, whatever the size it is decoded to
    TIFF            the strip or tile that is being read: libtiff holds a whole one in memory, however small the image
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import PngImagePlugin

from shared.errors import BadImage
from shared.images.jpeg import JpegHeader, reduced_size
from shared.images.modes import PIECE_BYTES
from shared.images.tiff_directory import MAX_TAGS, count_of, measure_tags

if TYPE_CHECKING:
    from PIL import Image

# The limit on decompressed text in a PNG. Pillow's own limit is 64 MiB, at up to 4 bytes per character.
PngImagePlugin.MAX_TEXT_MEMORY = 2_000_000

# Two numbers per strip of an image of 50,000 rows; Pillow takes up to 250 bytes for each number.
_MAX_TAG_VALUES = 100_000

_STORED_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_TO_GRAY = ("F", "I", "I;16", "I;16L", "I;16B", "I;16N")
_AS_THEY_ARE = ("L", "RGB", "CMYK")
_ROW_BYTES = 2 * 16  # of two images
_WEBP_BYTES, _WEBP_ALPHA_BYTES = 16, 20
_WEBP_COPIES = 5
# Copies of a file's metadata that Pillow makes while it reads, joins and parses them.
_METADATA_COPIES = 4
# Pillow reads the PNG chunks that it doesn't know block by block, joins the blocks, and keeps them.
_PNG_COPIES = 2
# Rows that are held while one is read, if the rows are not compressed, or compressed one by one.
_RAW_ROWS = 7
_SAMPLE_BYTES = 2
# A block of a JPEG's coefficients is 8 samples wide and high, and a sample may be up to 4 pixels wide and high.
_JPEG_BLOCK_PX = 32
_JPEG_SAMPLES = {"L": 1, "RGB": 3, "YCbCr": 3, "CMYK": 4}
# Numbers of tags (TIFF 6.0).
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_SAMPLES, _ROWS, _TILE_WIDTH, _TILE_LENGTH = 277, 278, 322, 323
_RAW, _FAX, _JPEGS, _YCBCR = 1, (2, 3, 4), (6, 7), 6
# Codecs that work on one row: LZW, Deflate (under two numbers), PackBits. Others may hold a second copy of a strip, as
# a dictionary.
_ROW_CODECS = (5, 8, 32946, 32773)
_FAX_BYTES = 16  # per pixel of a row
_LIBTIFF_RGBA_BYTES = 4
_BIG_ENDIAN_BIGTIFF = b"MM\0+"


def check_length(size_bytes: int, *, max_bytes: int) -> None:
    """Refuse a file by its length."""
    if size_bytes > max_bytes:
        raise BadImage("too_large_bytes", f"{size_bytes:,} bytes, the limit is {max_bytes:,} (max_image_bytes).")


def check_size(size: tuple[int, int], *, max_px: int, what: str = "") -> None:
    """Refuse a width and height. `what` names the part of the picture that has them, e.g. its tiles."""
    width, height = size
    if width < 1 or height < 1:
        raise BadImage("corrupt", f"the header says {what}{width} x {height} pixels.")
    if width * height > max_px:
        raise BadImage(
            "too_large_px",
            f"{what}{width} x {height} = {width * height:,} pixels, the limit is {max_px:,} (max_image_px).",
        )


def check_memory(needed_bytes: int, *, max_decode_bytes: int, what: str) -> None:
    """Refuse an image that would by itself take more memory than all decoding together may."""
    if needed_bytes > max_decode_bytes:
        raise BadImage(
            "too_large_px",
            f"decoding {what} takes up to {needed_bytes:,} bytes of memory, the limit is {max_decode_bytes:,} "
            "(max_decode_bytes): use fewer pixels, or a JPEG.",
        )


def check_before_opening(data: bytes, content_type: str) -> None:
    """Refuse a TIFF whose tags would take much memory as soon as Pillow opens it."""
    if content_type != "image/tiff":
        return
    if data.startswith(_BIG_ENDIAN_BIGTIFF):  # Pillow would read another directory than libtiff
        raise BadImage("unsupported", "a big-endian BigTIFF: use a plain TIFF.")
    found = measure_tags(data)
    if found.tags > MAX_TAGS:
        raise BadImage("unsupported", f"the TIFF has more than {MAX_TAGS:,} tags.")
    if found.values > _MAX_TAG_VALUES:
        raise BadImage(
            "unsupported", f"the TIFF's tags hold {found.values:,} numbers, the limit is {_MAX_TAG_VALUES:,}."
        )
    if found.data_bytes > len(data):
        raise BadImage("corrupt", f"the TIFF's tags claim {found.data_bytes:,} bytes, the file has {len(data):,}.")


def has_one_orientation(frame: Image.Image, *, tag: int) -> bool:
    """False if EXIF holds a list of orientations, which is invalid and may hold millions of numbers."""
    exif = frame.info.get("exif")
    return not isinstance(exif, bytes) or count_of(tag, exif) <= 1


def jpeg_bytes(header: JpegHeader, *, by: int, file_bytes: int) -> int:
    """Bytes of memory that decoding a plain JPEG at 1/`by` takes."""
    size = (header.width_px, header.height_px)
    width, height = reduced_size(size, by)
    # The codec's rows, uint8 [H, W, 3], and Pillow's copy of them.
    decoded = width * height * (3 + 4)
    coefficients = _coefficients(size, samples=1 if header.is_gray else 3) if header.has_several_scans else 0
    return decoded + coefficients + file_bytes


def decoded_bytes(frame: Image.Image, data: bytes, *, stored_size: tuple[int, int], max_px: int) -> int:
    """Bytes that a frame, opened but not yet loaded, will take at the peak of its decoding.

    `stored_size` is the width and height in the file: `draft` may have reduced a JPEG's frame since.

    Raises:
        BadImage: `too_large_px` or `corrupt`, because of a TIFF's tiles.
    """
    pixels = frame.width * frame.height
    metadata = _METADATA_COPIES * sum(len(value) for value in frame.info.values() if isinstance(value, bytes | str))
    match frame.format:
        case "WEBP":
            per_pixel = _WEBP_ALPHA_BYTES if frame.mode == "RGBA" else _WEBP_BYTES
            return pixels * per_pixel + _WEBP_COPIES * len(data)
        case "JPEG" | "MPO":
            coefficients = _coefficients(stored_size, samples=_JPEG_SAMPLES.get(frame.mode, 4))
            return pixels * 4 + coefficients + metadata + len(data)
        case "TIFF":
            return _tiff_bytes(frame, data, max_px=max_px)
        case "PNG":  # two rows of up to 8 bytes per pixel
            return _stored_and_converted(frame, data) + 2 * frame.width * 8 + metadata + _PNG_COPIES * len(data)
        case _:  # BMP: compressed pixels are unpacked into two copies, at 1 byte per pixel
            return _stored_and_converted(frame, data) + 2 * pixels + frame.width * 4 * _RAW_ROWS


def _coefficients(size: tuple[int, int], *, samples: int) -> int:
    width, height = (-(-side // _JPEG_BLOCK_PX) * _JPEG_BLOCK_PX for side in size)
    return width * height * samples * _SAMPLE_BYTES


def _stored_and_converted(frame: Image.Image, data: bytes) -> int:
    pixels, mode = frame.width * frame.height, frame.mode
    stored = pixels * _STORED_BYTES.get(mode, 4) + _ROW_BYTES * frame.height
    if mode in _TO_GRAY:
        return stored + pixels + PIECE_BYTES
    if frame.has_transparency_data or (frame.format == "PNG" and b"tRNS" in data):  # may follow the pixels
        return stored + pixels * 4 + PIECE_BYTES
    if mode == "1":
        return stored + pixels
    return stored if mode in _AS_THEY_ARE else stored + pixels * 4


def _tiff_bytes(frame: Image.Image, data: bytes, *, max_px: int) -> int:
    tags: Any = frame.tag_v2  # type: ignore[attr-defined]  # a TiffImageFile
    pixels, kept = frame.width * frame.height, _METADATA_COPIES * measure_tags(data).data_bytes
    turned = pixels * _STORED_BYTES.get(frame.mode, 4) if tags.get(_ORIENTATION, 1) != 1 else 0
    stored = _stored_and_converted(frame, data) + turned + kept
    row_px, rows = _chunk(tags, max_px=max_px)
    native_bits: int = max(tags.get(_BITS, (1,))) * tags.get(_SAMPLES, 1)
    compression = tags.get(_COMPRESSION, _RAW)
    if compression == _RAW:  # row by row
        return stored + row_px * native_bits // 8 * _RAW_ROWS
    chunk = row_px * rows * native_bits // 8
    if compression in _FAX:
        return stored + chunk + row_px * _FAX_BYTES
    if tags.get(_PHOTOMETRIC) == _YCBCR or compression in _JPEGS:  # libtiff converts these to RGBA
        chunk += row_px * rows * _LIBTIFF_RGBA_BYTES
    return stored + (chunk if compression in _ROW_CODECS else 3 * chunk)


def _chunk(tags: Any, *, max_px: int) -> tuple[int, int]:
    """The strips or tiles of a TIFF: pixels per row, and rows."""
    width, length = tags[_WIDTH], tags[_LENGTH]
    if _TILE_WIDTH not in tags and _TILE_LENGTH not in tags:
        rows = tags.get(_ROWS, length)
        return width, min(rows, length) if isinstance(rows, int) and rows > 0 else length
    tile = tags.get(_TILE_WIDTH), tags.get(_TILE_LENGTH)
    if not isinstance(tile[0], int) or not isinstance(tile[1], int):
        raise BadImage("corrupt", f"the TIFF's tiles are {tile[0]} x {tile[1]}.")
    check_size((tile[0], tile[1]), max_px=max_px, what="tiles of ")
    return tile[0], tile[1]
