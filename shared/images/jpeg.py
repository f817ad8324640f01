"""Decodes plain JPEGs with libjpeg-turbo directly (simplejpeg): exactly Pillow's pixels, in less time.

In: the bytes of a file that begins like a JPEG. Out: its header, then its pixels, at full size or at 1/2, 1/4 or 1/8.
Called by `decoding`, which has the rules, and by `missing_rows`. For a file that is not plain (CMYK, several pictures,
arithmetic coding, 12 bits, an odd header), or that the codec warns about, the result is None, and Pillow decides. Only
one thing is noticed here: `MissingData`. The pixels are equal because both use the same transforms and upsampling of
libjpeg-turbo; tests check this.
"""

from __future__ import annotations

from dataclasses import dataclass

from simplejpeg import decode_jpeg

from shared.images.arrays import Pixels

# Second byte of a marker (ITU-T T.81, table B.1).
_SOS = 0xDA
_PROGRESSIVE = 0xC2
_FRAMES = {0xC0, 0xC1, _PROGRESSIVE}  # baseline, extended and progressive, all with Huffman codes
_TABLES = {0xC4, 0xDB, 0xDD, 0xFE}  # Huffman and quantization tables, restart interval, comment
_APP0, _APP15 = 0xE0, 0xEF
_JFIF, _EXIF_OR_XMP, _PROFILE, _PHOTOSHOP, _ADOBE = 0xE0, 0xE1, 0xE2, 0xED, 0xEE

_FRAME_BYTES = 8  # length of a frame's segment before its components, which have 3 bytes each
_GRAY, _COLOR = 1, 3  # components
# simplejpeg counts an array's bytes in 32 bits.
_MAX_PX = (2**31 - 1) // 3
# The codec's scale is chosen by the size that results, and for sides up to 5 pixels two scales may give the same size.
_MIN_SCALED_PX = 8
_REDUCTIONS = (8, 4, 2)
_EOI = b"\xff\xd9"
# libjpeg's warnings (jerror.h) when a marker, or the end mark, comes where it needs more of the picture's data.
_DATA_ENDS_EARLY = ("premature end of data segment", "found marker 0xd9 instead of RST")
# Its warning when the file ends without an end mark; the picture may be whole.
_FILE_ENDS_EARLY = "Premature end of JPEG file"


class MissingData(Exception):
    """The codec met the end of a scan, or of the picture, before it had all of its data."""


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The header of a plain JPEG."""

    width_px: int
    height_px: int
    is_gray: bool
    has_metadata: bool  # EXIF or XMP, which may hold the orientation
    has_several_scans: bool  # progressive, or color by color: the codec keeps the whole picture until the last scan


def read_header(data: bytes) -> JpegHeader | None:
    """Read the header of a plain JPEG, in a few microseconds; returns None if Pillow must decide."""
    frame: tuple[int, int, int] | None = None
    has_metadata = is_progressive = False
    at = 2
    # Every step is a segment: 0xFF, its marker, its length without these two bytes.
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        end = at + 2 + length  # with a length below 2, no 0xFF is found there
        if end > len(data):
            return None
        if marker == _SOS:
            # If the first scan has fewer components than the frame, more scans follow.
            several = is_progressive or (frame is not None and data[at + 4 : at + 5] != bytes(frame[2:]))
            return _header(frame, has_metadata=has_metadata, has_several_scans=several)
        if marker in _FRAMES:
            if frame is not None or (frame := _frame(data, at + 4, length=length)) is None:
                return None
            is_progressive = marker == _PROGRESSIVE
        elif marker == _EXIF_OR_XMP:
            has_metadata = True
        elif marker not in _TABLES and not _is_plain_app(data, at + 4, marker=marker, length=length):
            return None
        at = end
    return None


def _frame(data: bytes, at: int, *, length: int) -> tuple[int, int, int] | None:
    """Width, height and number of components of the frame header at `at`; None if it is not plain."""
    if length < _FRAME_BYTES or data[at] != 8:
        return None
    components = data[at + 5]
    if components not in (_GRAY, _COLOR) or length != _FRAME_BYTES + 3 * components:
        return None
    return data[at + 3] << 8 | data[at + 4], data[at + 1] << 8 | data[at + 2], components


def _header(frame: tuple[int, int, int] | None, *, has_metadata: bool, has_several_scans: bool) -> JpegHeader | None:
    if frame is None:
        return None
    width, height, components = frame
    if not 0 < width * height <= _MAX_PX:
        return None
    return JpegHeader(
        width,
        height,
        is_gray=components == _GRAY,
        has_metadata=has_metadata,
        has_several_scans=has_several_scans,
    )


def _is_plain_app(data: bytes, at: int, *, marker: int, length: int) -> bool:
    """Whether Pillow reads or ignores this application segment without error, and the segment changes no pixel.

    Pillow refuses a file if one of certain segments is too short. An MPO lists its pictures in such a segment.
    """
    if marker == _JFIF:
        return length >= 16 or not data.startswith(b"JFIF", at)
    if marker == _PROFILE:
        return length >= 16 and data.startswith(b"ICC_PROFILE\0", at)
    if marker == _ADOBE:
        return length >= 14
    return _APP0 < marker <= _APP15 and marker != _PHOTOSHOP


def reduction(size: tuple[int, int], *, least: tuple[int, int]) -> int:
    """The largest of 1, 2, 4, 8 by which the codec may divide width and height so that both keep `least` pixels.

    This is what Pillow's `draft` chooses. Other eighths would come closer, but their transforms are not vectorized, and
    their pixels differ from those of a plain resize.
    """
    most = min(size[0] // least[0], size[1] // least[1])
    return next((by for by in _REDUCTIONS if by <= most), 1)


def reduced_size(size: tuple[int, int], by: int) -> tuple[int, int]:
    """Width and height of the codec's output when it divides the sides by `by`. It rounds up."""
    return -(-size[0] // by), -(-size[1] // by)


def decode_reduced(data: bytes, header: JpegHeader, *, by: int, out: Pixels | None = None) -> Pixels | None:
    """Decode to uint8 [H, W, 3], or [H, W, 1] for a gray image, of the `reduced_size`, not turned.

    Returns None if Pillow must decide. `out`, C-contiguous and of that shape, receives the pixels; if None is returned,
    its content is undefined. The interpreter lock is released for all but a few microseconds.

    Raises:
        MissingData: Pillow would fill what is missing with the color before it.
    """
    least_width = least_height = 0
    if by > 1:
        if max(header.width_px, header.height_px) < _MIN_SCALED_PX:
            return None
        least_width, least_height = reduced_size((header.width_px, header.height_px), by)
    return _decode_strictly(data, header, least=(least_width, least_height), out=out)


def _decode_strictly(
    data: bytes, header: JpegHeader, *, least: tuple[int, int], out: Pixels | None, may_add_end: bool = True
) -> Pixels | None:
    try:
        # strict: the codec's warnings, including those about missing data, are errors.
        pixels: Pixels = decode_jpeg(
            data,
            "GRAY" if header.is_gray else "RGB",
            min_height=least[1],
            min_width=least[0],
            buffer=out,
            strict=True,
        )
    except Exception as error:
        if _names_missing_data(error):
            raise MissingData from error
        if may_add_end and _FILE_ENDS_EARLY in str(error):  # the picture may be whole: without the mark, nobody knows
            # Zeros are the part of a file that was never written. The codec would take them for pixels.
            marked = data.rstrip(b"\0") + _EOI
            return _decode_strictly(marked, header, least=least, out=out, may_add_end=False)
        return None  # Pillow decides, and names the reason
    return pixels


def _names_missing_data(error: Exception) -> bool:
    return any(warning in str(error) for warning in _DATA_ENDS_EARLY)


def is_complete(data: bytes) -> bool:
    """Whether the codec finds all of the picture's data in a JPEG of any kind; also True if it can't tell.

    This takes about half the time of decoding the file.
    """
    try:
        decode_jpeg(data, "RGB", min_height=1, min_width=1, strict=True)
    except Exception as error:
        return not _names_missing_data(error)
    return True
