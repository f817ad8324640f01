"""Estimates from a file's headers how much processor time it takes to decode the file, without decoding it.

In: the bytes of a file that begins like its content type. Out: `DecodeCost`, or BadImage if a count is out of bounds.
`decoding` calls `check` before anything else. The worker calls `is_costly`, and gives costly images to a helper process
(`decoder_process`), so that no other image waits for them.

Even a small file may take minutes: a JPEG may have any number of scans, each of which visits every block, and Pillow
reads the segments, strips, chunks and runs of a file one by one in Python. So this module counts the work, and refuses
a file that would take very long to count. Reading the headers of a camera's file takes microseconds.

The rates are upper bounds, measured with Pillow 13 on one core at about 3 GHz; a core half as fast takes twice as long.
tests/shared/images/test_decode_cost.py checks that no known file takes longer than its estimate.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from shared.errors import BadImage
from shared.images.formats import FORMATS, sniff
from shared.images.limits import check_size
from shared.images.tiff_directory import measure_tags, read_layout

# Default of the setting. The slowest file within the other limits, 50 megapixels of 16-bit RGBA, takes a third of it.
MAX_DECODE_S = 10.0
# A camera's JPEG of 12 megapixels takes less, and so does a full HD picture of any format.
CHEAP_S = 0.12
# A picture is not cheap either if more pixels than this are in memory at once, at up to 20 bytes each (WebP): each
# decode thread may hold one such picture. A JPEG that the codec reduces while decoding doesn't count.
CHEAP_PX = 2_500_000

# Limits beyond which a file is refused, however cheap each of its parts is. A camera's JPEG has about 10 segments and 1
# scan; other programs write up to 20 scans; a profile, EXIF or XMP of 20 MB takes 300 segments.
MAX_SEGMENTS = 2_000
MAX_SCANS = 500
MAX_CHUNKS = 20_000  # of 1 KB each, in 20 MB; libpng writes 8 KB

_NS = 1e-9
# JPEG: the time for Huffman codes is per byte, for transforms and resizing per pixel. The codec reduces most pictures
# to half their size or less; one that is too thin for that, or of which a small region is used, takes twice as long per
# pixel.
_JPEG_PX_S, _JPEG_THIN_PX_S, _JPEG_BYTE_S = 4 * _NS, 10 * _NS, 6 * _NS
_THIN_PX = 512
# JPEG of several scans: each scan visits every block of its components.
_SCANS_PX_S, _SCANS_BYTE_S, _SCAN_SAMPLE_S = 12 * _NS, 30 * _NS, 0.25 * _NS
_ARITHMETIC_FACTOR = 10  # arithmetic codes, and lossless JPEG, take this many times longer per byte
# Pillow's work in Python for a JPEG's header.
_SEGMENT_S, _SKIPPED_BYTE_S = 2_000 * _NS, 400 * _NS
_EXIF_BYTE_S = 200 * _NS  # 8 bytes may be a fraction, 12 a tag
_EXIF_COPY_S = 0.2 * _NS  # pieces of EXIF are joined one by one
_LIST_BYTE_S = 60 * _NS  # of Photoshop's resources, and of quantization tables
# PNG: bytes of the decompressed rows, and conversion of the pixels.
_PNG_BYTE_S, _PNG_PX_S, _PNG_ROW_S = 5 * _NS, 10 * _NS, 30 * _NS
_CHUNK_S, _PROFILE_S = 3_000 * _NS, 4_000_000 * _NS
_WEBP_PX_S, _WEBP_BYTE_S = 20 * _NS, 40 * _NS
_BMP_PX_S = 9 * _NS
# Pillow reads run-length codes in Python, and fills the missing end of a line pixel by pixel.
_RLE_PX_S, _RLE_BYTE_S = 120 * _NS, 250 * _NS
_TIFF_PX_S, _TIFF_BYTE_S, _TIFF_SLOW_BYTE_S = 18 * _NS, 3 * _NS, 60 * _NS
_TAG_VALUE_S, _TAG_S = 6_000 * _NS, 3_000 * _NS

# Second byte of a JPEG's marker (ITU-T T.81, table B.1).
_START_OF_SCAN, _EXIF = 0xDA, 0xE1
_LISTS = {0xDB, 0xED}
_HUFFMAN_FRAMES, _PROGRESSIVE = (0xC0, 0xC1, 0xC2), (0xC2, 0xC6, 0xCA, 0xCE)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_STAND_ALONE = {0x00, 0x01, *range(0xD0, 0xDA)}  # no length follows
_SCAN = bytes([0xFF, _START_OF_SCAN])
_SCAN_HEADER_BYTES = 10  # for one component: the shortest
# Limits of the cache of headers: more headers than a worker's lines have cameras, and only short ones, because a header
# with a long EXIF is different in every image.
_MAX_KNOWN, _MAX_KNOWN_BYTES = 256, 4096
_BEGINNING_BYTES = 256  # in most cameras' files they include the frame's header
_FILL = re.compile(rb"\xff*")

# Samples per pixel, by the color type in IHDR (PNG specification, 11.2.2).
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_IHDR = struct.Struct(">IIBB")  # width, height, bits per sample, color type
_WEBP_SIDE = 2**14 - 1  # the bits of a width or height
_OS2_HEADER_BYTES = 12
_OS2_SIZE = struct.Struct("<HH")
_BMP_SIZE = struct.Struct("<iiHHI")  # width, height, planes, bits per pixel, compression
_BMP_RLE = (1, 2)
_TIFF_RAW, _TIFF_JPEGS = 1, (6, 7)
# Fax, LZW, Deflate, PackBits, ZStandard; LZMA and WebP take longer.
_TIFF_FAST = (_TIFF_RAW, 2, 3, 4, 5, 8, 32946, 32773, 50000)


class DecodeCost(NamedTuple):
    """What it takes to decode a file, according to its headers."""

    width_px: int
    height_px: int
    seconds: float  # of processor time
    held_px: int  # pixels that are in memory at the same time
    more: str  # what adds to the cost besides the pixels, in words

    @property
    def is_cheap(self) -> bool:
        """Whether the file may be decoded in a thread for which other images wait."""
        return self.seconds <= CHEAP_S and self.held_px <= CHEAP_PX


def is_costly(data: bytes, *, max_decode_s: float = math.inf, part: float = 1.0) -> bool:
    """Whether no other image should wait while this one is decoded. False for a file that is refused at once.

    Args:
        max_decode_s: a file that takes longer than this is refused at once.
        part: the smaller side of the region that is used, as a fraction of the picture's side.
    """
    try:
        cost = estimate(data, sniff(data), part=part)
    except BadImage:
        return False
    return not cost.is_cheap and cost.seconds <= max_decode_s


def check(data: bytes, content_type: str, *, max_px: int, max_decode_s: float) -> None:
    """Refuse a file that has too many pixels, or that would take more than `max_decode_s` to decode.

    Raises:
        BadImage: `too_large_px` or `unsupported`.
    """
    cost = estimate(data, content_type)
    if cost.width_px * cost.height_px > max_px:
        check_size((cost.width_px, cost.height_px), max_px=max_px)
    if cost.seconds > max_decode_s:
        what = f"{cost.width_px:,} x {cost.height_px:,} pixels{cost.more}"
        raise BadImage(
            "unsupported",
            f"decoding this {FORMATS[content_type]} ({what}) may take {cost.seconds:,.1f} s of processor time, the "
            f"limit is {max_decode_s:g} (max_decode_s): save it again, as a plain JPEG.",
        )


def estimate(data: bytes, content_type: str, *, part: float = 1.0) -> DecodeCost:
    """The most that decoding can cost. Zero if the header can't be read: the decoder refuses such a file at once.

    `part` is the same as in `is_costly`: a JPEG of which a small region is used is decoded at its full size.

    Raises:
        BadImage: `unsupported`: the file has more segments, scans or chunks than any ordinary file.
    """
    match content_type:
        case "image/jpeg":
            return _jpeg(data, part)
        case "image/png":
            return _png(data)
        case "image/webp":
            return _webp(data)
        case "image/bmp":
            return _bmp(data)
        case _:
            return _tiff(data)


def _cost(size: tuple[int, int], seconds: float, *, held_px: int | None = None, more: str = "") -> DecodeCost:
    width, height = size
    return DecodeCost(width, height, seconds, width * height if held_px is None else held_px, more)


def _check_count(count: int, what: str, *, limit: int, content_type: str) -> None:
    if count > limit:
        raise BadImage("unsupported", f"this {FORMATS[content_type]} has more than {limit:,} {what}: save it again.")


# JPEG ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _JpegParts:
    """Counts of the parts of a JPEG before its pixels, and where the pixels begin."""

    width_px: int = 0
    height_px: int = 0
    components: int = 0
    frame: int = 0  # the marker of its frame header
    segments: int = 0
    skipped_bytes: int = 0
    exif_pieces: int = 0
    exif_bytes: int = 0
    list_bytes: int = 0
    first_scan_at: int = 0

    def note(self, data: bytes, at: int, *, marker: int, length: int) -> None:
        """Count one segment."""
        if marker in _FRAMES:
            if at + 10 <= len(data) and (data[at + 5] or data[at + 6]):
                self.frame, self.components = marker, data[at + 9]
                self.height_px, self.width_px = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
        elif marker == _EXIF and data.startswith(b"Exif", at + 4):
            self.exif_pieces += 1
            self.exif_bytes += length
        elif marker in _LISTS:
            self.list_bytes += length

    @property
    def header_s(self) -> float:
        return (
            self.segments * _SEGMENT_S
            + self.skipped_bytes * _SKIPPED_BYTE_S
            + self.list_bytes * _LIST_BYTE_S
            + self.exif_bytes * (_EXIF_BYTE_S + self.exif_pieces * _EXIF_COPY_S)
        )


def _jpeg(data: bytes, part: float) -> DecodeCost:
    parts = _parts_of(data)
    size, at = (parts.width_px, parts.height_px), parts.first_scan_at
    pixels, size_bytes = parts.width_px * parts.height_px, len(data) - at
    if parts.frame not in _HUFFMAN_FRAMES:
        size_bytes *= _ARITHMETIC_FACTOR
    # If the first scan has fewer components than the frame, more scans follow.
    if parts.frame not in _PROGRESSIVE and data[at + 4 : at + 5] == bytes([parts.components & 0xFF]):
        px_s, held_px = (_JPEG_THIN_PX_S, pixels) if part * min(size) < _THIN_PX else (_JPEG_PX_S, 0)
        return _cost(size, pixels * px_s + size_bytes * _JPEG_BYTE_S + parts.header_s, held_px=held_px)
    scans = data.count(_SCAN, at)  # plus, by chance, about one per 64 KB of other data after the picture
    _check_count(scans, "scans", limit=MAX_SCANS, content_type="image/jpeg")
    per_px_s = _SCANS_PX_S + scans * parts.components * _SCAN_SAMPLE_S
    return _cost(size, pixels * per_px_s + size_bytes * _SCANS_BYTE_S + parts.header_s, more=f" in {scans:,} scans")


class _KnownHeaders:
    """A cache of recently read JPEG headers, by their bytes. May be used by any thread.

    A camera's files begin with the same bytes, and comparing a header takes a tenth of the time of reading it.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, _JpegParts]] = {}  # by the first bytes of the header

    def find(self, data: bytes) -> _JpegParts | None:
        header, parts = self._known.get(data[:_BEGINNING_BYTES], (b"", None))
        return parts if data.startswith(header) else None

    def add(self, header: bytes, parts: _JpegParts) -> None:
        if _BEGINNING_BYTES <= len(header) <= _MAX_KNOWN_BYTES:
            if len(self._known) >= _MAX_KNOWN:
                self._known = {}
            self._known[header[:_BEGINNING_BYTES]] = (header, parts)


_KNOWN_HEADERS = _KnownHeaders()


def _parts_of(data: bytes) -> _JpegParts:
    known = _KNOWN_HEADERS.find(data)
    if known is not None:
        return known
    parts = _read_jpeg(data)
    ends_at = parts.first_scan_at + _SCAN_HEADER_BYTES  # `_read_jpeg` and `_jpeg` read nothing of a header beyond this
    if data.startswith(_SCAN, parts.first_scan_at) and ends_at <= len(data):
        _KNOWN_HEADERS.add(data[:ends_at], parts)
    return parts


def _read_jpeg(data: bytes) -> _JpegParts:
    parts, at = _JpegParts(), 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] == 0xFF:  # Pillow and the codec skip bytes between two segments
            next_at = _next_marker(data, at)
            parts.skipped_bytes += next_at - at
            at = next_at
            continue
        marker = data[at + 1]
        if marker == _START_OF_SCAN:
            break
        parts.segments += 1
        _check_count(parts.segments, "segments before its pixels", limit=MAX_SEGMENTS, content_type="image/jpeg")
        if marker in _STAND_ALONE:
            at += 2
            continue
        length = max(2, data[at + 2] << 8 | data[at + 3])
        parts.note(data, at, marker=marker, length=length)
        at += 2 + length
    parts.first_scan_at = at
    return parts


def _next_marker(data: bytes, at: int) -> int:
    """The position of the last FF byte before the next marker's code; several may begin a marker."""
    first = data.find(b"\xff", at)
    if first < 0:
        return len(data)
    fill = _FILL.match(data, first)
    assert fill is not None
    return max(at + 1, fill.end() - 1)


# PNG and WebP: chunks ───────────────────────────────────────────────────────────────────────────────


def _png(data: bytes) -> DecodeCost:
    width = height = row_bits = chunks = profiles = exif_bytes = 0
    for chunks, (name, at, length) in enumerate(walk_chunks(data, "image/png"), start=1):  # noqa: B007  # counted
        if name == b"IHDR" and length >= _IHDR.size and at + _IHDR.size <= len(data):
            width, height, depth, color = _IHDR.unpack_from(data, at)
            row_bits = depth * PNG_SAMPLES.get(color, 4)
        elif name == b"iCCP":
            profiles += 1
        elif name == b"eXIf":
            exif_bytes += length
        elif name == b"IEND":
            break
    seconds = width * height * (row_bits / 8 * _PNG_BYTE_S + _PNG_PX_S) + height * _PNG_ROW_S
    seconds += chunks * _CHUNK_S + profiles * _PROFILE_S + exif_bytes * _EXIF_BYTE_S
    return _cost((width, height), seconds, more=f", {chunks:,} chunks")


def _webp(data: bytes) -> DecodeCost:
    width = height = exif_bytes = 0
    for name, at, length in walk_chunks(data, "image/webp"):
        size = _webp_size(data, name, at)
        width, height = max(width, size[0]), max(height, size[1])
        if name == b"EXIF":
            exif_bytes += length
    seconds = width * height * _WEBP_PX_S + len(data) * _WEBP_BYTE_S + exif_bytes * _EXIF_BYTE_S
    return _cost((width, height), seconds)


def _webp_size(data: bytes, name: bytes, at: int) -> tuple[int, int]:
    """Width and height from a chunk: the canvas's, or those of a lossy or lossless picture; 0, 0 for other chunks."""
    match name:
        case b"VP8X":
            return 1 + _little(data, at + 4, 3), 1 + _little(data, at + 7, 3)
        case b"VP8 ":
            return _little(data, at + 6, 2) & _WEBP_SIDE, _little(data, at + 8, 2) & _WEBP_SIDE
        case b"VP8L":
            bits = _little(data, at + 1, 4)
            return 1 + (bits & _WEBP_SIDE), 1 + (bits >> 14 & _WEBP_SIDE)
        case _:
            return 0, 0


def _little(data: bytes, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "little")


def walk_chunks(data: bytes, content_type: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content, and length of each chunk.

    A PNG's chunk is length, name, content, checksum. A WebP's chunk (RIFF) is name, length, and content that is padded
    to an even length.
    """
    is_png = content_type == "image/png"
    at, count = 8 if is_png else 12, 0
    while at + 8 <= len(data):
        count += 1
        _check_count(count, "chunks", limit=MAX_CHUNKS, content_type=content_type)
        if is_png:
            length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        else:
            length, name = _little(data, at + 4, 4), data[at : at + 4]
        yield name, at + 8, length
        at += 12 + length if is_png else 8 + length + length % 2


# BMP and TIFF ───────────────────────────────────────────────────────────────────────────────────────


def _bmp(data: bytes) -> DecodeCost:
    if len(data) < 34:
        return _cost((0, 0), 0.0)
    if int.from_bytes(data[14:18], "little") == _OS2_HEADER_BYTES:
        width, height = _OS2_SIZE.unpack_from(data, 18)
        return _cost((width, height), width * height * _BMP_PX_S)
    width, height, _, _, compression = _BMP_SIZE.unpack_from(data, 18)
    size = abs(width), abs(height)  # a negative height means that the rows go from top to bottom
    if compression not in _BMP_RLE:
        return _cost(size, size[0] * size[1] * _BMP_PX_S)
    seconds = size[0] * size[1] * _RLE_PX_S + len(data) * _RLE_BYTE_S
    return _cost(size, seconds, more=", run-length encoded")


def _tiff(data: bytes) -> DecodeCost:
    tags, layout = measure_tags(data), read_layout(data)
    seconds = layout.width_px * layout.length_px * _TIFF_PX_S
    if layout.compression in _TIFF_JPEGS:  # each strip or tile is a JPEG, with scans of its own
        scans_s = data.count(_SCAN) * layout.chunk_px * layout.samples * _SCAN_SAMPLE_S
        seconds += layout.coded_px * _SCANS_PX_S + len(data) * _SCANS_BYTE_S + scans_s
    else:
        byte_s = _TIFF_BYTE_S if layout.compression in _TIFF_FAST else _TIFF_SLOW_BYTE_S
        seconds += layout.coded_px * layout.bits / 8 * byte_s
    seconds += tags.values * _TAG_VALUE_S + tags.tags * _TAG_S
    size, more = (layout.width_px, layout.length_px), f", {layout.chunks:,} strips or tiles"
    return _cost(size, seconds, held_px=max(size[0] * size[1], layout.chunk_px), more=more)
