"""PNG files whose chunks are missing, damaged, repeated or without end."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator

from torture.corpus import bombs, slow_files
from torture.corpus.bombs import EXIF_6, exif_of, png_chunk
from torture.corpus.case import Case, Expected, either, is_sorted, rejected

_START = b"\x89PNG\r\n\x1a\n"
_END = png_chunk(b"IEND", b"")
_SIDE = 16
_ROWS = b"".join(b"\0" + bytes(40 + (row * 3 + at) % 200 for at in range(3 * _SIDE)) for row in range(_SIDE))
_PIXELS = png_chunk(b"IDAT", zlib.compress(_ROWS))


def header(
    width: int = _SIDE, height: int = _SIDE, *, depth: int = 8, color: int = 2, last: bytes = b"\0\0\0"
) -> bytes:
    """IHDR; `last` are the compression, the filter and the interlacing."""
    return png_chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, color) + last)


def _png(*chunks: bytes) -> bytes:
    return _START + b"".join(chunks)


def _bad_sum(chunk: bytes) -> bytes:
    return chunk[:-4] + bytes(byte ^ 0xFF for byte in chunk[-4:])


def _with(*between: bytes, after: bytes = b"") -> bytes:
    return _png(header(), *between, _PIXELS, after, _END)


def _packed(name: bytes, size_bytes: int) -> bytes:
    return png_chunk(name, b"a\0\0" + zlib.compress(bytes(size_bytes), 9))


def _structure() -> dict[str, tuple[bytes, Expected]]:
    raw = zlib.compress(_ROWS)
    return {
        "no-header": (_png(_PIXELS, _END), rejected("corrupt")),
        "no-pixels": (_png(header(), _END), rejected("corrupt", "truncated")),
        "no-end": (_png(header(), _PIXELS), rejected("truncated")),
        "end-first": (_png(header(), _END, _PIXELS), rejected("corrupt", "truncated")),
        "signature": (_START, rejected("truncated")),
        "header-alone": (_png(header()), rejected("truncated")),
        "two-headers": (_png(header(), header(8, 8), _PIXELS, _END), rejected("corrupt")),
        "header-late": (_png(png_chunk(b"tEXt", b"a\0b"), header(), _PIXELS, _END), rejected("corrupt")),
        "header-long": (_png(png_chunk(b"IHDR", header()[8:21] + bytes(9)), _PIXELS, _END), is_sorted()),
        "header-short": (_png(png_chunk(b"IHDR", b"\0\0\0\x10"), _PIXELS, _END), rejected("corrupt", "truncated")),
        "header-sum": (_png(_bad_sum(header()), _PIXELS, _END), rejected("corrupt")),
        "length-huge": (_png(header(), b"\xff\xff\xff\xffIDAT", _PIXELS, _END), rejected("corrupt", "truncated")),
        "length-31": (_png(header(), b"\x7f\xff\xff\xfftEXt", _PIXELS, _END), rejected("corrupt", "truncated")),
        "name-junk": (_with(b"\0\0\0\0\1\2\3\4" + bytes(4)), rejected("corrupt")),
        "unknown-needed": (_with(png_chunk(b"ABCD", b"x")), is_sorted()),
        "unknown": (_with(png_chunk(b"abCd", bytes(5000))), is_sorted()),
        "pieces-empty": (_png(header(), png_chunk(b"IDAT", b"") * 50, _PIXELS, _END), is_sorted()),
        "pieces-single": (
            _png(header(), *(png_chunk(b"IDAT", raw[at : at + 1]) for at in range(len(raw))), _END),
            is_sorted(),
        ),
        "pieces-apart": (
            _png(
                header(), png_chunk(b"IDAT", raw[:40]), png_chunk(b"tEXt", b"a\0b"), png_chunk(b"IDAT", raw[40:]), _END
            ),
            rejected("truncated", "corrupt"),
        ),
        "text-after": (_with(after=png_chunk(b"tEXt", b"a\0b")), is_sorted()),
        "palette-missing": (_png(header(color=3), _PIXELS, _END), rejected("corrupt")),
        "palette-odd": (_with(png_chunk(b"PLTE", bytes(5))), is_sorted()),
        "transparency-odd": (_with(png_chunk(b"tRNS", b"\0")), rejected("corrupt")),
        "bits-used-0": (_with(png_chunk(b"sBIT", b"\0\0\0")), is_sorted()),
    }


def _header_values() -> dict[str, tuple[bytes, Expected]]:
    odd = {
        "depth-3": header(depth=3),
        "depth-0": header(depth=0),
        "color-1": header(color=1),
        "color-7": header(color=7),
        "color-3-depth-16": header(color=3, depth=16),
        "compression-1": header(last=b"\1\0\0"),
        "filter-1": header(last=b"\0\1\0"),
        "width-31": header(2**31, 1),
        "height-32": header(1, 2**32 - 1),
    }
    expected = {
        "compression-1": either("corrupt", why="only the field is wrong"),
        "filter-1": either("corrupt", why="only the field is wrong"),
        "width-31": rejected("too_large_px", "corrupt"),
        "height-32": rejected("too_large_px", "corrupt"),
    }
    return {
        name: (_png(ihdr, _PIXELS, _END), expected.get(name, rejected("corrupt"))) for name, ihdr in odd.items()
    } | {"interlace-2": (_png(header(last=b"\0\0\2"), _PIXELS, _END), rejected("corrupt"))}


def _streams() -> dict[str, tuple[bytes, Expected]]:
    raw = zlib.compress(_ROWS)
    filters = b"".join(b"\7" + bytes(3 * _SIDE) for _ in range(_SIDE))
    dictionary = zlib.compressobj(zdict=b"abc")
    with_dictionary = dictionary.compress(_ROWS) + dictionary.flush()
    bodies = {
        "stream-stored": (zlib.compress(_ROWS, 0), is_sorted()),
        "stream-no-header": (raw[2:], rejected("corrupt")),
        "stream-gzip": (b"\x1f\x8b\x08" + bytes(7) + raw[2:], rejected("corrupt")),
        "stream-sum": (raw[:-4] + bytes(4), either("corrupt", why="every row is there")),
        "stream-no-sum": (raw[:-4], either("truncated", "corrupt", why="every row is there")),
        "stream-damaged": (raw[:30] + bytes(20) + raw[50:], rejected("corrupt", "truncated")),
        "stream-filter-7": (zlib.compress(filters), rejected("corrupt")),
        "stream-dictionary": (with_dictionary, rejected("corrupt", "truncated")),
        "stream-bomb": (zlib.compress(bytes(20_000_000), 9), is_sorted()),
        "stream-empty": (zlib.compress(b""), rejected("truncated", "corrupt")),
        "stream-zeros": (bytes(100), rejected("corrupt")),
    }
    return {
        name: (_png(header(), png_chunk(b"IDAT", body), _END), expected) for name, (body, expected) in bodies.items()
    }


def _metadata() -> dict[str, tuple[bytes, Expected]]:
    control = png_chunk(b"acTL", struct.pack(">II", 1, 0))
    frame = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, _SIDE, _SIDE, 0, 0, 1, 1, 0, 0))
    outside = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 99, 99, 9, 9, 1, 1, 0, 0))
    return {
        "profile-bomb": (
            _with(_packed(b"iCCP", 30_000_000)),
            either("corrupt", "unsupported", why="a profile is ignored"),
        ),
        "profile-junk": (_with(png_chunk(b"iCCP", b"a\0\0junk")), is_sorted()),
        "profiles": (slow_files.png_profiles(50), is_sorted()),
        "text-bomb": (_with(_packed(b"zTXt", 60_000_000)), either("corrupt", why="a text is ignored")),
        "texts-bomb": (bombs.png_text(60), rejected("corrupt")),
        "text-sum": (_with(_bad_sum(png_chunk(b"tEXt", b"a\0b"))), either("corrupt", why="a text is ignored")),
        "exif-loop": (_with(png_chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\x08\0\0\0")), is_sorted()),
        "exif-turn": (_with(png_chunk(b"eXIf", EXIF_6)), is_sorted()),
        "exif-list": (_with(png_chunk(b"eXIf", exif_of(type_of_tag=5, count=2_000))), is_sorted()),
        "exif-prefixes": (slow_files.exif_prefixes(60_000), is_sorted()),
        "chunks-15000": (slow_files.png_chunks(15_000), is_sorted()),
        "chunks-25000": (slow_files.png_chunks(25_000), rejected("unsupported")),
        "pieces-25000": (slow_files.png_pieces(25_000), rejected("unsupported")),
        "apng-no-frames": (_with(control), is_sorted()),
        "apng-zero": (_with(png_chunk(b"acTL", bytes(8))), is_sorted()),
        "apng-frames-lie": (_with(png_chunk(b"acTL", struct.pack(">II", 2**31, 0)), frame), is_sorted()),
        "apng-outside": (_with(control, outside), either("corrupt", why="the first picture is whole")),
        "apng": (bombs.apng(_SIDE), is_sorted()),
    }


def odd_pngs() -> Iterator[Case]:
    """All of them."""
    families = {
        "odd PNG": _structure() | _header_values(),
        "PNG stream": _streams(),
        "PNG metadata": _metadata(),
    }
    for family, files in families.items():
        for name, (data, expected) in files.items():
            yield Case(f"png-{name}.png", family, functools.partial(bytes, data), expected)
