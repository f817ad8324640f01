"""TIFF, WebP and BMP files whose headers lie."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping

from torture.corpus import bombs, slow_files
from torture.corpus.bombs import exif_of, layout, riff, strips, tiff, tiles, webp, webp_canvas, webp_exif, webp_pixels
from torture.corpus.case import Case, Expected, Files, either, is_sorted, rejected
from torture.corpus.pictures import encoded, picture

_SIZE = (16, 16)
_RAW = 1


def _raw(**numbers: list[int]) -> Mapping[int, tuple[int, list[int] | bytes]]:
    return layout(_SIZE, [8], 1, compression=_RAW, **numbers)  # type: ignore[return-value]  # tags by name


def _gray(order: str = "<", **numbers: list[int]) -> bytes:
    return tiff(_raw(**numbers), [bytes(range(256))], order=order)


def _next(offset: int) -> bytes:
    data = _gray()
    return data[:-4] + struct.pack("<I", offset)


def _tiff_directories() -> Files:
    """The directory of tags, and what it points at."""
    plain = _gray()
    first = struct.unpack("<I", plain[4:8])[0]
    return {
        "plain": (lambda: plain, is_sorted()),
        "big-endian": (lambda: _gray(">"), is_sorted()),
        "loop": (lambda: _next(first), is_sorted()),
        "next-beyond": (lambda: _next(2**31), is_sorted()),
        "loop-exif": (lambda: _gray(t34665=[first]), is_sorted()),
        "loop-sub": (lambda: _gray(t330=[first]), is_sorted()),
        "first-beyond": (lambda: plain[:4] + struct.pack("<I", 2**31) + plain[8:], rejected("truncated")),
        "first-at-0": (lambda: plain[:4] + bytes(4) + plain[8:], rejected("corrupt", "unsupported")),
        "no-tags": (lambda: b"II*\0\x08\0\0\0" + bytes(40), rejected("corrupt")),
        "header-alone": (lambda: b"II*\0", rejected("truncated", "corrupt")),
        "bigtiff-big-endian": (lambda: b"MM\0+\0\x08\0\0" + bytes(40), rejected("unsupported")),
        "bigtiff-empty": (lambda: b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + bytes(40), rejected("corrupt")),
        "tags-5000": (lambda: slow_files.tiff_tags(5_000), rejected("unsupported")),
        "tags-shared": (bombs.METADATA["tiff shared bytes"], rejected("corrupt", "too_large_bytes")),
        "tag-fractions": (
            lambda: tiff({**_raw(), 282: (5, bytes(900_000))}, [bytes(256)]),
            rejected("unsupported"),
        ),
        "tag-claims": (
            lambda: _gray(t282=[1]).replace(struct.pack("<HHI", 282, 3, 1), struct.pack("<HHI", 282, 5, 2**28)),
            rejected("unsupported"),
        ),
    }


def _tiff_values() -> Files:
    """Tags with a value that is wrong."""
    return {
        "width-0": (lambda: _gray(t256=[0]), rejected("corrupt")),
        "length-0": (lambda: _gray(t257=[0]), rejected("corrupt")),
        "width-huge": (lambda: _gray(t256=[2**31]), rejected("too_large_px", "corrupt")),
        "bits-0": (lambda: _gray(t258=[0]), rejected("corrupt")),
        "bits-7": (lambda: _gray(t258=[7]), rejected("corrupt")),
        "bits-64": (lambda: _gray(t258=[64]), rejected("corrupt")),
        "compression-0": (lambda: _gray(t259=[0]), rejected("corrupt")),
        "compression-99": (lambda: _gray(t259=[99]), rejected("corrupt")),
        "photometric-99": (lambda: _gray(t262=[99]), rejected("corrupt")),
        "samples-0": (lambda: _gray(t277=[0]), rejected("corrupt")),
        "samples-65535": (lambda: _gray(t277=[65_535]), rejected("corrupt")),
        "orientation-9": (lambda: _gray(t274=[9]), is_sorted()),
        "orientation-0": (lambda: _gray(t274=[0]), is_sorted()),
        "predictor-9": (lambda: _gray(t317=[9]), is_sorted()),
        "planar-2": (lambda: _gray(t284=[2]), is_sorted()),
        "planar-9": (lambda: _gray(t284=[9]), either("corrupt", why="one sample per pixel has no planes")),
    }


def _tiff_blocks() -> Files:
    """Strips and tiles."""
    return {
        "rows-0": (lambda: _gray(t278=[0]), either("corrupt", "truncated", why="one strip holds all rows")),
        "rows-huge": (lambda: _gray(t278=[2**32 - 1]), is_sorted()),
        "rows-1": (lambda: _gray(t278=[1]), rejected("truncated", "corrupt")),
        "strip-beyond": (lambda: _gray(t273=[2**31]), rejected("truncated", "corrupt")),
        "strip-empty": (
            lambda: _gray(t279=[0]),
            either("truncated", "corrupt", why="the pixels are where they should be"),
        ),
        "strip-short": (
            lambda: tiff(_raw(), [bytes(100)]),
            either("truncated", "corrupt", why="the rest is the directory"),
        ),
        "tile-0": (lambda: tiff(_raw(t322=[0], t323=[0]), [bytes(256)], tiled=True), rejected("corrupt")),
        "tile-1": (lambda: tiff(_raw(t322=[1], t323=[1]), [bytes(256)], tiled=True), rejected("truncated", "corrupt")),
        "tile-huge": (lambda: tiles((100, 100), 9_000, [8], 1), rejected("too_large_px", "unsupported")),
        "tile-huge-rgb": (lambda: tiles((100, 100), 8_000, [8] * 3, 2), rejected("too_large_px", "unsupported")),
        "strip-bomb": (lambda: strips((2_000, 2_000), [8] * 4, 2, rows=2_000, t338=[2]), is_sorted()),
        "short-strips": (lambda: slow_files.tiff_short_strips(60_000), rejected("unsupported", "corrupt", "truncated")),
        "byte-strips": (lambda: slow_files.tiff_byte_strips(200_000), rejected("unsupported")),
        "tiles-thin": (lambda: slow_files.tiff_tiles(1_024, 4_000), is_sorted()),
    }


def _webps() -> Files:
    plain = encoded(picture(), "WEBP")
    pixels = webp_pixels(16, 16)
    return {
        "plain": (lambda: webp(16, 16), is_sorted()),
        "alpha": (lambda: webp(16, 16, alpha=1), is_sorted()),
        "canvas": (lambda: webp_canvas(64, 64), is_sorted()),
        "canvas-huge": (lambda: webp_canvas(16_000, 16_000), rejected("too_large_px")),
        "no-frame": (lambda: riff((b"VP8X", bytes(10))), rejected("corrupt", "truncated")),
        "empty": (riff, rejected("corrupt", "truncated")),
        "size-lies": (lambda: plain[:4] + struct.pack("<I", 2**31) + plain[8:], rejected("truncated")),
        "size-short": (lambda: plain[:4] + struct.pack("<I", 20) + plain[8:], rejected("corrupt", "truncated")),
        "size-0": (lambda: plain[:4] + bytes(4) + plain[8:], rejected("corrupt", "truncated")),
        "chunk-lies": (lambda: plain[:16] + struct.pack("<I", 2**31) + plain[20:], rejected("corrupt", "truncated")),
        "lossless-junk": (
            lambda: riff((b"VP8L", b"\x2f" + bytes(40))),
            either("corrupt", "truncated", why="one pixel of zeros"),
        ),
        "lossy-junk": (lambda: riff((b"VP8 ", bytes(40))), rejected("corrupt")),
        "two-frames": (lambda: riff((b"VP8L", pixels), (b"VP8L", pixels)), is_sorted()),
        "exif-list": (lambda: webp_exif(exif_of(type_of_tag=5, count=2_000)), is_sorted()),
        "exif-junk": (lambda: webp_exif(b"junk"), is_sorted()),
        "chunks-25000": (lambda: slow_files.webp_chunks(25_000), rejected("unsupported")),
        "profile-claimed": (
            lambda: riff((b"VP8X", bytes([0x20]) + bytes(3) + b"\x0f\0\0" * 2), (b"VP8L", pixels)),
            is_sorted(),
        ),
    }


def _bmp(at: int, form: str, *values: int) -> bytes:
    data = bytearray(encoded(picture(), "BMP"))
    struct.pack_into(form, data, at, *values)
    return bytes(data)


def _bmps() -> Files:
    palette = encoded(picture().quantize(16), "BMP")
    return {
        "top-down": (lambda: _bmp(22, "<i", -32), is_sorted()),
        "width-negative": (lambda: _bmp(18, "<i", -48), rejected("corrupt", "truncated", "too_large_px")),
        "height-least": (lambda: _bmp(22, "<i", -(2**31)), rejected("too_large_px")),
        "bits-0": (lambda: _bmp(28, "<H", 0), rejected("corrupt")),
        "bits-3": (lambda: _bmp(28, "<H", 3), rejected("corrupt")),
        "bits-64": (lambda: _bmp(28, "<H", 64), rejected("corrupt")),
        "bits-32": (lambda: _bmp(28, "<H", 32), rejected("truncated", "corrupt")),
        "compression-4": (lambda: _bmp(30, "<I", 4), rejected("corrupt")),
        "compression-99": (lambda: _bmp(30, "<I", 99), rejected("corrupt")),
        "rle-8-at-24-bits": (lambda: _bmp(30, "<I", 1), rejected("corrupt", "truncated")),
        "pixels-beyond": (lambda: _bmp(10, "<I", 2**31), rejected("corrupt", "truncated")),
        "pixels-at-0": (lambda: _bmp(10, "<I", 0), either("corrupt", "truncated", why="the header is read as pixels")),
        "size-lies": (lambda: _bmp(2, "<I", 2**31), either("truncated", why="every row is there")),
        "size-0": (lambda: _bmp(2, "<I", 0), is_sorted()),
        "palette-huge": (
            lambda: palette[:46] + struct.pack("<I", 2**31) + palette[50:],
            rejected("corrupt", "truncated"),
        ),
        "header-12": (lambda: _bmp(14, "<I", 12), rejected("corrupt", "truncated", "unsupported", "too_large_px")),
        "header-124": (
            lambda: _bmp(14, "<I", 124),
            either("corrupt", "truncated", why="the fields may have any values"),
        ),
        "header-cut": (lambda: encoded(picture(), "BMP")[:30], rejected("truncated", "corrupt")),
        "rle-lines": (lambda: slow_files.bmp_rle_lines(1_000, 4), is_sorted()),
        "rle-slow": (lambda: slow_files.bmp_rle_lines(10_000_000, 4), rejected("unsupported", "too_large_px")),
        "rle": (lambda: bombs.bmp_rle(64), is_sorted()),
    }


def odd_others() -> Iterator[Case]:
    """All of them."""
    tiffs = _tiff_directories() | _tiff_values() | _tiff_blocks()
    for kind, suffix, files in (("TIFF", ".tif", tiffs), ("WebP", ".webp", _webps()), ("BMP", ".bmp", _bmps())):
        for name, (make, expected) in files.items():
            yield Case(f"odd-{kind.lower()}-{name}{suffix}", f"odd {kind}", make, expected)


# Few bytes that would become many ───────────────────────────────────────────────────────────────────

# A picture of this side is costly, and within the limits; one of the other is beyond them.
_COSTLY_PX, _BEYOND_PX = 1_600, 7_200
_SMALL_PX = 16


def decompression() -> Iterator[Case]:
    """Files of a few KB whose pixels take 10 MB, or hundreds."""
    for side in (_SMALL_PX, _COSTLY_PX, _BEYOND_PX):
        for name, make in bombs.kinds(side).items():
            suffix = {"webp": ".webp", "png": ".png", "apng": ".png", "jpeg": ".jpg", "bmp": ".bmp"}
            file = f"{name.replace(' ', '-').replace(',', '')}-{side}{suffix.get(name.split()[0], '.tif')}"
            yield Case(file, "decompression bomb", make, _of_bomb(name, side))
    for name, make in bombs.METADATA.items():
        yield Case(f"metadata-{name.replace(' ', '-')}.png", "metadata bomb", make, _of_metadata(name))


# Of colors of 16 bits that are all zero, nobody knows how many bits are used. One column has few pixels.
_DARK_16 = frozenset(
    {"png RGBA 16", "png one row", "tiff RGB 16, one strip", "tiff RGBA 16", "tiff CMYK 16", "tiff tile"}
)
_ALWAYS_SMALL = frozenset({"png one column"})


def _of_bomb(name: str, side: int) -> Expected:
    if side == _BEYOND_PX and name not in _ALWAYS_SMALL:
        return rejected("too_large_px", "unsupported", "truncated", "corrupt")
    if name in _DARK_16:
        return rejected("unsupported", "corrupt")
    return is_sorted()


def _of_metadata(name: str) -> Expected:
    if name in ("webp exif", "png exif"):  # the orientation is a list, which is not read
        return is_sorted()
    return rejected("unsupported", "corrupt", "too_large_px", "too_large_bytes")


# The time that they take is within its limit.
_SLOW_BUT_FINE = frozenset(
    {"jpeg fill", "jpeg junk", "jpeg exif fractions", "png exif prefixes", "png exif tags", "jpeg photoshop"}
    | {"jpeg tables", "tiff tiles"}
)
# At full length these come close to the limit, and a slow core would be beyond it.
_SHORTER = {
    "jpeg fill": functools.partial(slow_files.fill, 3_000_000),
    "jpeg junk": functools.partial(slow_files.junk, 3_000_000),
    "jpeg exif fractions": functools.partial(slow_files.exif_fractions, 800_000),
}
_TOO_SLOW = rejected("unsupported", "corrupt", "truncated", "too_large_px")


def slow() -> Iterator[Case]:
    """Files of up to 20 MB that would take minutes."""
    for name, make in (slow_files.SLOW | _SHORTER).items():
        suffix = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "bmp": ".bmp"}.get(name.split()[0], ".tif")
        file = f"slow-{name.replace(' ', '-').replace(',', '')}{suffix}"
        yield Case(file, "slow", make, is_sorted() if name in _SLOW_BUT_FINE else _TOO_SLOW)
    yield Case("too-long.jpg", "slow", functools.partial(_padded, 20_000_001), rejected("too_large_bytes"))


def _padded(size_bytes: int) -> bytes:
    return encoded(picture(), "JPEG").ljust(size_bytes, b"\0")
