"""Files that are cut, that end early, or whose headers claim what is not there."""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterator

from torture.corpus.bombs import PNG_END, PNG_START, png_header, png_pixels
from torture.corpus.case import Case, Expected, either, is_sorted, rejected
from torture.corpus.pictures import encoded, jpegs, picture, whole_files

EOI = b"\xff\xd9"
SHARES = (0.2, 0.5, 0.8)
# The first of several pictures may be whole in the part that is left.
_SEVERAL = ("mpo", "apng", "tiff-pages")
_ODD_SIZES = ((1, 1), (1, 40), (40, 1), (7, 9), (17, 16))
_SUFFIXES = {"jpeg": ".jpg", "mpo": ".jpg", "png": ".png", "apng": ".png", "webp": ".webp", "bmp": ".bmp"}


def suffix_of(kind: str) -> str:
    """The suffix of a file of that kind."""
    return _SUFFIXES.get(kind.partition("-")[0], ".tif")


def whole() -> Iterator[Case]:
    """Files without fault, of every kind and of odd sizes."""
    for kind, data in whole_files().items():
        yield Case(f"{kind}{suffix_of(kind)}", "whole", functools.partial(bytes, data), is_sorted())
    for format_name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        for width, height in _ODD_SIZES:
            kind = format_name.lower()
            make = functools.partial(_odd_size, format_name, width, height)
            yield Case(f"{kind}-{width}x{height}{suffix_of(kind)}", "odd size", make, is_sorted())


def _odd_size(format_name: str, width: int, height: int) -> bytes:
    return encoded(picture(width, height), format_name)


def cut(dice: random.Random) -> Iterator[Case]:
    """Files whose end is missing: a writer died, a disk was full, a download was broken off."""
    for kind, data in whole_files().items():
        for share in SHARES:
            end = max(32, int(len(data) * share) + dice.randint(-5, 5))
            yield Case(f"{kind}-{end}{suffix_of(kind)}", "cut", functools.partial(bytes, data[:end]), _of_a_part(kind))


def _of_a_part(kind: str) -> Expected:
    if kind in _SEVERAL:
        return either("truncated", "corrupt", why="the first picture may be whole")
    # Of TIFF's many layouts, some show the missing end only as damage.
    return rejected("truncated", "corrupt") if kind.startswith("tiff") else rejected("truncated")


def ended_early(dice: random.Random) -> Iterator[Case]:
    """JPEGs that have their end mark, but not all of their picture, and those that lack only the mark."""
    for kind, make in jpegs().items():
        data = make()
        if kind == "mpo":
            continue
        scan = data.index(b"\xff\xda")
        for share in SHARES:
            end = scan + int((len(data) - scan) * share) + dice.randint(-3, 3)
            name = f"{kind}-{end}-ended.jpg"
            yield Case(name, "ended early", functools.partial(bytes, data[:end] + EOI), _of_scans(kind))
        zeros = data[: scan + (len(data) - scan) // 2]
        yield Case(
            f"{kind}-zeros.jpg",
            "ended early",
            functools.partial(bytes, zeros + bytes(len(data) - len(zeros))),
            rejected("truncated"),
        )
        if kind != "jpeg-cmyk":  # Pillow decodes these, and refuses a file without an end mark
            yield Case(f"{kind}-no-end.jpg", "ended early", functools.partial(bytes, data[:-2]), is_sorted())


def _of_scans(kind: str) -> Expected:
    if kind == "jpeg-progressive":
        return either("truncated", "corrupt", why="it may end where a scan does, or within a table between two")
    return rejected("truncated")


def png_rows(width: int, height: int, count: int, *, pieces: int = 1) -> bytes:
    """A PNG of RGB that holds `count` rows; its header claims `height`."""
    rows = b"".join(b"\0" + bytes((50 + (7 * row + at) % 190) for at in range(3 * width)) for row in range(count))
    return PNG_START + png_header(width, height) + png_pixels(rows, pieces=pieces) + PNG_END


def missing_rows() -> Iterator[Case]:
    """PNG and BMP files with fewer rows than their headers say, or more."""
    for count in (0, 1, 2, 31, 62, 63):
        for pieces in (1, 4):
            make = functools.partial(png_rows, 40, 64, count, pieces=pieces)
            yield Case(
                f"png-{count}-of-64-rows-in-{pieces}.png", "missing rows", make, rejected("truncated", "corrupt")
            )
    for count in (64, 65, 200):
        make = functools.partial(png_rows, 40, 64, count)
        yield Case(f"png-{count}-of-64-rows.png", "missing rows", make, is_sorted())
    for claimed in (33, 64, 6000):
        yield Case(
            f"bmp-claims-{claimed}.bmp",
            "missing rows",
            functools.partial(_with_number, encoded(picture(), "BMP"), 22, claimed),
            rejected("truncated"),
        )


def _with_number(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<I", value & 0xFFFFFFFF) + data[at + 4 :]


def claimed_sizes() -> Iterator[Case]:
    """Headers that claim no pixels, or far more than there are."""
    png, jpeg, bmp = (encoded(picture(), kind) for kind in ("PNG", "JPEG", "BMP"))
    frame = jpeg.index(b"\xff\xc0") + 5
    webp = encoded(picture(), "WEBP", lossless=True)
    for width, height in ((0, 8), (8, 0), (0, 0)):
        header = png_header(width, height)
        files = {
            "png": PNG_START + header + png[33:],
            "jpeg": jpeg[:frame] + struct.pack(">HH", height, width) + jpeg[frame + 4 :],
            "bmp": bmp[:18] + struct.pack("<ii", width, height) + bmp[26:],
        }
        for kind, data in files.items():
            reasons = rejected("corrupt", "truncated") if kind == "bmp" else rejected("corrupt")
            yield Case(
                f"{kind}-{width}x{height}{suffix_of(kind)}", "no pixels", functools.partial(bytes, data), reasons
            )
    for side in (8_000, 30_000, 65_535):
        header = png_header(side, side)
        files = {
            "png": PNG_START + header + png[33:],
            "jpeg": jpeg[:frame] + struct.pack(">HH", side, side) + jpeg[frame + 4 :],
            "bmp": bmp[:18] + struct.pack("<ii", side, side) + bmp[26:],
            "webp": webp[:21] + struct.pack("<I", 16_383 | 16_383 << 14) + webp[25:],
        }
        for kind, data in files.items():
            name = f"{kind}-claims-{side}{suffix_of(kind)}"
            yield Case(name, "claimed size", functools.partial(bytes, data), rejected("too_large_px"))
