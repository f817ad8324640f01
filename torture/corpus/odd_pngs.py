"""PNG files whose chunks are missing, damaged, repeated or without end."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from torture.corpus import bombs, slow_files
from torture.corpus.bombs import EXIF_6, PNG_END, PNG_START, exif_of, png_chunk, png_header, png_pixels
from torture.corpus.case import Case, Files, either, is_sorted, rejected

_SIDE = 16
_ROWS = b"".join(b"\0" + bytes(40 + (row * 3 + at) % 200 for at in range(3 * _SIDE)) for row in range(_SIDE))
_PIXELS = png_pixels(_ROWS)
_HEADER = png_header(_SIDE, _SIDE)


def _of(**fields: Any) -> bytes:
    """A header with other fields than `_HEADER`."""
    return png_header(_SIDE, _SIDE, **fields)


def _png(*chunks: bytes) -> bytes:
    return PNG_START + b"".join(chunks)


def _bad_sum(chunk: bytes) -> bytes:
    return chunk[:-4] + bytes(byte ^ 0xFF for byte in chunk[-4:])


def _with(*between: bytes, after: bytes = b"") -> bytes:
    return _png(_HEADER, *between, _PIXELS, after, PNG_END)


def _packed(name: bytes, size_bytes: int) -> bytes:
    return png_chunk(name, b"a\0\0" + zlib.compress(bytes(size_bytes), 9))


def _structure() -> Files:
    raw = zlib.compress(_ROWS)
    return {
        "no-header": (lambda: _png(_PIXELS, PNG_END), rejected("corrupt")),
        "no-pixels": (lambda: _png(_HEADER, PNG_END), rejected("corrupt", "truncated")),
        "no-end": (lambda: _png(_HEADER, _PIXELS), rejected("truncated")),
        "end-first": (lambda: _png(_HEADER, PNG_END, _PIXELS), rejected("corrupt", "truncated")),
        "signature": (lambda: PNG_START, rejected("truncated")),
        "header-alone": (lambda: _png(_HEADER), rejected("truncated")),
        "two-headers": (lambda: _png(_HEADER, png_header(8, 8), _PIXELS, PNG_END), rejected("corrupt")),
        "header-late": (lambda: _png(png_chunk(b"tEXt", b"a\0b"), _HEADER, _PIXELS, PNG_END), rejected("corrupt")),
        "header-long": (lambda: _png(png_chunk(b"IHDR", _HEADER[8:21] + bytes(9)), _PIXELS, PNG_END), is_sorted()),
        "header-short": (
            lambda: _png(png_chunk(b"IHDR", b"\0\0\0\x10"), _PIXELS, PNG_END),
            rejected("corrupt", "truncated"),
        ),
        "header-sum": (lambda: _png(_bad_sum(_HEADER), _PIXELS, PNG_END), rejected("corrupt")),
        "length-huge": (
            lambda: _png(_HEADER, b"\xff\xff\xff\xffIDAT", _PIXELS, PNG_END),
            rejected("corrupt", "truncated"),
        ),
        "length-31": (
            lambda: _png(_HEADER, b"\x7f\xff\xff\xfftEXt", _PIXELS, PNG_END),
            rejected("corrupt", "truncated"),
        ),
        "name-junk": (lambda: _with(b"\0\0\0\0\1\2\3\4" + bytes(4)), rejected("corrupt")),
        "unknown-needed": (lambda: _with(png_chunk(b"ABCD", b"x")), is_sorted()),
        "unknown": (lambda: _with(png_chunk(b"abCd", bytes(5000))), is_sorted()),
        "pieces-empty": (lambda: _png(_HEADER, png_chunk(b"IDAT", b"") * 50, _PIXELS, PNG_END), is_sorted()),
        "pieces-single": (
            lambda: _png(_HEADER, *(png_chunk(b"IDAT", raw[at : at + 1]) for at in range(len(raw))), PNG_END),
            is_sorted(),
        ),
        "pieces-apart": (
            lambda: _png(
                _HEADER,
                png_chunk(b"IDAT", raw[:40]),
                png_chunk(b"tEXt", b"a\0b"),
                png_chunk(b"IDAT", raw[40:]),
                PNG_END,
            ),
            rejected("truncated", "corrupt"),
        ),
        "text-after": (lambda: _with(after=png_chunk(b"tEXt", b"a\0b")), is_sorted()),
        "palette-missing": (lambda: _png(_of(color=3), _PIXELS, PNG_END), rejected("corrupt")),
        "palette-odd": (lambda: _with(png_chunk(b"PLTE", bytes(5))), is_sorted()),
        "transparency-odd": (lambda: _with(png_chunk(b"tRNS", b"\0")), rejected("corrupt")),
        "bits-used-0": (lambda: _with(png_chunk(b"sBIT", b"\0\0\0")), is_sorted()),
    }


def _header_values() -> Files:
    odd = {
        "depth-3": _of(depth=3),
        "depth-0": _of(depth=0),
        "color-1": _of(color=1),
        "color-7": _of(color=7),
        "color-3-depth-16": _of(color=3, depth=16),
        "compression-1": _of(last=b"\1\0\0"),
        "filter-1": _of(last=b"\0\1\0"),
        "interlace-2": _of(last=b"\0\0\2"),
        "width-31": png_header(2**31, 1),
        "height-32": png_header(1, 2**32 - 1),
    }
    expected = {
        "compression-1": either("corrupt", why="only the field is wrong"),
        "filter-1": either("corrupt", why="only the field is wrong"),
        "width-31": rejected("too_large_px", "corrupt"),
        "height-32": rejected("too_large_px", "corrupt"),
    }
    return {
        name: (functools.partial(_png, ihdr, _PIXELS, PNG_END), expected.get(name, rejected("corrupt")))
        for name, ihdr in odd.items()
    }


def _streams() -> Files:
    raw = zlib.compress(_ROWS)
    filters = b"".join(b"\7" + bytes(3 * _SIDE) for _ in range(_SIDE))
    dictionary = zlib.compressobj(zdict=b"abc")
    with_dictionary = dictionary.compress(_ROWS) + dictionary.flush()
    bodies: Files = {
        "stream-stored": (lambda: zlib.compress(_ROWS, 0), is_sorted()),
        "stream-no-header": (lambda: raw[2:], rejected("corrupt")),
        "stream-gzip": (lambda: b"\x1f\x8b\x08" + bytes(7) + raw[2:], rejected("corrupt")),
        "stream-sum": (lambda: raw[:-4] + bytes(4), either("corrupt", why="every row is there")),
        "stream-no-sum": (lambda: raw[:-4], either("truncated", "corrupt", why="every row is there")),
        "stream-damaged": (lambda: raw[:30] + bytes(20) + raw[50:], rejected("corrupt", "truncated")),
        "stream-filter-7": (lambda: zlib.compress(filters), rejected("corrupt")),
        "stream-dictionary": (lambda: with_dictionary, rejected("corrupt", "truncated")),
        "stream-bomb": (lambda: zlib.compress(bytes(20_000_000), 9), is_sorted()),
        "stream-empty": (lambda: zlib.compress(b""), rejected("truncated", "corrupt")),
        "stream-zeros": (lambda: bytes(100), rejected("corrupt")),
    }
    return {name: (functools.partial(_of_stream, make), expected) for name, (make, expected) in bodies.items()}


def _of_stream(make: Callable[[], bytes]) -> bytes:
    return _png(_HEADER, png_chunk(b"IDAT", make()), PNG_END)


def _metadata() -> Files:
    control = png_chunk(b"acTL", struct.pack(">II", 1, 0))
    frame = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, _SIDE, _SIDE, 0, 0, 1, 1, 0, 0))
    outside = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 99, 99, 9, 9, 1, 1, 0, 0))
    return {
        "profile-bomb": (
            lambda: _with(_packed(b"iCCP", 30_000_000)),
            either("corrupt", "unsupported", why="a profile is ignored"),
        ),
        "profile-junk": (lambda: _with(png_chunk(b"iCCP", b"a\0\0junk")), is_sorted()),
        "profiles": (lambda: slow_files.png_profiles(50), is_sorted()),
        "text-bomb": (lambda: _with(_packed(b"zTXt", 60_000_000)), either("corrupt", why="a text is ignored")),
        "texts-bomb": (lambda: bombs.png_text(60), rejected("corrupt")),
        "text-sum": (lambda: _with(_bad_sum(png_chunk(b"tEXt", b"a\0b"))), either("corrupt", why="a text is ignored")),
        "exif-loop": (lambda: _with(png_chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\x08\0\0\0")), is_sorted()),
        "exif-turn": (lambda: _with(png_chunk(b"eXIf", EXIF_6)), is_sorted()),
        "exif-list": (lambda: _with(png_chunk(b"eXIf", exif_of(type_of_tag=5, count=2_000))), is_sorted()),
        "exif-prefixes": (lambda: slow_files.exif_prefixes(60_000), is_sorted()),
        "chunks-15000": (lambda: slow_files.png_chunks(15_000), is_sorted()),
        "chunks-25000": (lambda: slow_files.png_chunks(25_000), rejected("unsupported")),
        "pieces-25000": (lambda: slow_files.png_pieces(25_000), rejected("unsupported")),
        "apng-no-frames": (lambda: _with(control), is_sorted()),
        "apng-zero": (lambda: _with(png_chunk(b"acTL", bytes(8))), is_sorted()),
        "apng-frames-lie": (lambda: _with(png_chunk(b"acTL", struct.pack(">II", 2**31, 0)), frame), is_sorted()),
        "apng-outside": (lambda: _with(control, outside), either("corrupt", why="the first picture is whole")),
        "apng": (lambda: bombs.apng(_SIDE), is_sorted()),
    }


def odd_pngs() -> Iterator[Case]:
    """All of them."""
    families = {
        "odd PNG": _structure() | _header_values(),
        "PNG stream": _streams(),
        "PNG metadata": _metadata(),
    }
    for family, files in families.items():
        for name, (make, expected) in files.items():
            yield Case(f"png-{name}.png", family, make, expected)
