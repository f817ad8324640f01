"""Small files that take seconds to decode, made on the spot: few bytes that demand much work."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from torture.corpus import bombs

_EOI = b"\xff\xd9"


def segment(marker: int, body: bytes = b"") -> bytes:
    """One segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body


def small_jpeg() -> bytes:
    return bombs.jpeg(64, 64)


def after_start(*parts: bytes) -> bytes:
    """A small JPEG with these bytes behind its first marker."""
    data = small_jpeg()
    return data[:2] + b"".join(parts) + data[2:]


def progressive_scans(side: int, scans: int, *, marker: int = 0xC2) -> bytes:
    """A progressive JPEG of one color, 80 bytes a scan: nearly every block is skipped, but each is visited.

    The first scan has the mean of every block, each further one refines a bit that is zero. `marker` 0xCA: arithmetic.
    """
    out = io.BytesIO()
    Image.new("L", (64, 64)).save(out, "JPEG", progressive=True)
    data = bytearray(out.getvalue())
    frame = data.index(b"\xff\xc2")
    data[frame + 1] = marker
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    first = data.index(b"\xff\xda")
    # Huffman table 1 of AC: the one code "0" ends a run of 2^14 blocks and more.
    table = segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")
    blocks = (-(-side // 8)) ** 2
    head = segment(0xDA, b"\1" + bytes([data[first + 5], 0, 1, 63, 0x00]))
    run = bytes(max(1, blocks * 15 // 16384 // 8 + 1))
    return bytes(data[:first]) + table + (head + run) * scans + _EOI


def fill(size_bytes: int) -> bytes:
    """FF bytes before a marker. Any number of them is allowed, and Pillow reads them one by one."""
    return after_start(b"\xff" * size_bytes)


def junk(size_bytes: int) -> bytes:
    """Bytes between two segments that belong to none."""
    return after_start(segment(0xFE), bytes(size_bytes))


def app_segments(count: int) -> bytes:
    return after_start(segment(0xE5) * count)


def exif_pieces(count: int) -> bytes:
    """EXIF that Pillow joins piece by piece, copying all of it each time."""
    first = segment(0xE1, b"Exif\0\0" + bombs.EXIF_6)
    return after_start(first, segment(0xE1, b"Exif\0\0" + bytes(54)) * count)


def exif_fractions(count: int) -> bytes:
    """EXIF whose resolution is a list of fractions, over many segments."""
    entries = struct.pack("<HHHII", 2, 0x011A, 5, count, 38) + struct.pack("<HHII", 0x0128, 3, 1, 2)
    exif = b"II*\0\x08\0\0\0" + entries + bytes(4) + bytes(8 * count)
    pieces = [exif[at : at + 65000] for at in range(0, len(exif), 65000)]
    data = small_jpeg()
    at = 4 + struct.unpack(">H", data[4:6])[0]  # without JFIF, whose resolution Pillow takes first
    return data[:2] + b"".join(segment(0xE1, b"Exif\0\0" + piece) for piece in pieces) + data[at:]


def exif_prefixes(size_bytes: int) -> bytes:
    """EXIF that repeats its prefix at the beginning: Pillow copies the rest each time it removes one."""
    return bombs.png(16, 16, 8, 2, before=bombs.png_chunk(b"eXIf", b"Exif\0\0" * (size_bytes // 6)))


def exif_tags(count: int) -> bytes:
    """EXIF of as many tags as a directory may have."""
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, 1) for tag in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + bytes(4)


def photoshop(segments: int) -> bytes:
    """Resource blocks of no content, 5,000 in each segment."""
    block = b"8BIM\4\4\0\0\0\0\0\0"
    return after_start(segment(0xED, b"Photoshop 3.0\0" + block * 5400) * segments)


def quantization_tables(segments: int) -> bytes:
    return after_start(segment(0xDB, (b"\0" + b"\1" * 64) * 1000) * segments)


def bmp_rle_lines(width: int, height: int) -> bytes:
    """Lines of one pixel and an end of line: Pillow adds the rest pixel by pixel. 1,084 bytes with one line."""
    return _bmp_rle(width, height, b"\1\0\0\0" * height + b"\0\1")


def bmp_rle_runs(side: int, runs: int) -> bytes:
    """Runs of one pixel."""
    return _bmp_rle(side, side, b"\1\1" * runs + b"\0\1")


def _bmp_rle(width: int, height: int, data: bytes) -> bytes:
    before = 14 + 40 + 1024
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", before + len(data), 0, 0, before) + head + bytes(1024) + data


def tiff_byte_strips(count: int) -> bytes:
    """One strip per row. The offsets are single bytes, so they form a byte string, but Pillow makes a list of it."""
    tags = {**bombs.layout((8, count), [8], 1, compression=1), 278: (4, [1]), 273: (1, b"\x08" * count)}
    return bombs.tiff(tags, [bytes(64)])


def tiff_short_strips(count: int) -> bytes:
    """One strip per row according to the header, but only one offset."""
    return bombs.tiff({**bombs.layout((8, count), [8], 1, compression=32773), 278: (4, [1])}, [bytes(64)])


def tiff_tiles(tile: int, length: int) -> bytes:
    """Tiles of which the picture shows one row each."""
    size = (tile * 64, 16)
    tags = bombs.layout(size, [8], 1, t322=[tile], t323=[length])
    return bombs.tiff(tags, [bombs.zeros(tile, length)] * 64, tiled=True)


def tiff_tags(count: int) -> bytes:
    return bombs.tiff({**bombs.layout((16, 16), [8], 1), **{1000 + n: (1, b"12345") for n in range(count)}}, [b"\0"])


def png_chunks(count: int) -> bytes:
    return bombs.png(16, 16, 8, 2, before=bombs.png_chunk(b"abCd", b"") * count)


def png_profiles(count: int) -> bytes:
    """Profiles of a MB each, of which the last one counts."""
    chunk = bombs.png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000)))
    return bombs.png(16, 16, 8, 2, before=chunk * count)


def png_pieces(count: int) -> bytes:
    """Pixels in pieces of no bytes."""
    data = bombs.png(16, 16, 8, 2)
    at = data.index(b"IDAT") - 4
    return data[:at] + bombs.png_chunk(b"IDAT", b"") * count + data[at:]


def webp_chunks(count: int) -> bytes:
    return bombs.riff((b"VP8L", bombs.webp_pixels(16, 16)), *[(b"abcd", b"")] * count)


@functools.cache
def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


SLOW: dict[str, Callable[[], bytes]] = {
    "jpeg 20,000 scans": lambda: progressive_scans(7000, 20_000),
    "jpeg fill": lambda: fill(19_000_000),
    "jpeg junk": lambda: junk(19_000_000),
    "jpeg segments": lambda: app_segments(4_700_000),
    "jpeg exif in pieces": lambda: exif_pieces(300_000),
    "jpeg exif fractions": lambda: exif_fractions(2_000_000),
    "png exif prefixes": lambda: exif_prefixes(19_000_000),
    "png exif tags": lambda: bombs.png(16, 16, 8, 2, before=bombs.png_chunk(b"eXIf", exif_tags(65_000))),
    "jpeg photoshop": lambda: photoshop(290),
    "jpeg tables": lambda: quantization_tables(290),
    "bmp rle lines": lambda: bmp_rle_lines(10_000_000, 4),
    "bmp rle runs": lambda: bmp_rle_runs(3140, 9_850_000),
    "tiff strips of bytes": lambda: tiff_byte_strips(2_100_000),
    "tiff short strips": lambda: tiff_short_strips(6_000_000),
    "tiff tiles": lambda: tiff_tiles(1024, 48_000),
    "tiff tags": lambda: tiff_tags(60_000),
    "png chunks": lambda: png_chunks(1_600_000),
    "png profiles": lambda: png_profiles(18_000),
    "png pieces": lambda: png_pieces(1_600_000),
    "webp chunks": lambda: webp_chunks(2_000_000),
}
