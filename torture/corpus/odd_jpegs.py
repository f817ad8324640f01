"""JPEG files whose segments are missing, repeated, out of order or without end."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator

from torture.corpus import slow_files
from torture.corpus.bombs import EXIF_6
from torture.corpus.case import Case, Files, either, is_sorted, rejected
from torture.corpus.damaged import EOI
from torture.corpus.pictures import encoded, picture
from torture.corpus.slow_files import after_start, segment

_EXIF, _ICC, _ADOBE = 0xE1, 0xE2, 0xEE


_CONCEALED = either("corrupt", "truncated", why="JPEG has no checksum, and the codec may conceal it")


def _plain() -> bytes:
    return encoded(picture(), "JPEG", quality=80)


def _without(marker: int, *, data: bytes | None = None) -> bytes:
    """The file without its segments of this marker."""
    data = data or _plain()
    out, at = data[:2], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        out += b"" if data[at + 1] == marker else data[at:end]
        at = end
    return out + data[at:]


def _frame(at: int, value: bytes) -> bytes:
    """The file with other bytes in its frame header; byte 0 is the marker."""
    data = _plain()
    begin = data.index(b"\xff\xc0") + 1 + at
    return data[:begin] + value + data[begin + len(value) :]


def _exif(body: bytes) -> bytes:
    return after_start(segment(_EXIF, b"Exif\0\0" + body))


def _loop() -> bytes:
    """EXIF whose directory names itself as the one that follows, and as its own sub-directory."""
    entries = struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x8825, 4, 1, 8)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + struct.pack("<I", 8)


def _claims(count: int, kind: int) -> bytes:
    """EXIF whose orientation claims to be a list."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, kind, count, 8) + bytes(4)


def _profile(pieces: int, number: int, total: int) -> bytes:
    body = b"ICC_PROFILE\0" + bytes([number, total]) + bytes(1000)
    return after_start(segment(_ICC, body) * pieces)


def _damaged() -> Files:
    data = _plain()
    scan = data.index(b"\xff\xda")
    frame = data[data.index(b"\xff\xc0") :][:19]
    thumbnail = encoded(picture(16, 16), "JPEG")
    return {
        "no-tables": (lambda: _without(0xDB), rejected("corrupt")),
        "no-codes": (
            lambda: _without(0xC4),
            either("corrupt", "truncated", why="the codec knows the standard's codes"),
        ),
        "no-frame": (lambda: _without(0xC0), rejected("corrupt")),
        "no-scan": (lambda: data[:scan] + EOI, rejected("corrupt", "truncated")),
        "no-jfif": (lambda: _without(0xE0), is_sorted()),
        "two-frames": (lambda: data.replace(frame, frame * 2), rejected("corrupt")),
        "scan-first": (lambda: data[:2] + data[scan : scan + 14] + data[2:], rejected("corrupt")),
        "start-alone": (lambda: b"\xff\xd8\xff", rejected("corrupt", "truncated")),
        "start-and-end": (lambda: b"\xff\xd8" + EOI, rejected("corrupt", "format")),
        "end-first": (lambda: data[:2] + EOI + data[2:], rejected("corrupt", "truncated")),
        "twice": (lambda: data + data, is_sorted()),
        "segment-too-long": (lambda: data[:2] + b"\xff\xfe\xff\xff" + data[2:], rejected("corrupt", "truncated")),
        "segment-too-short": (lambda: data[:2] + b"\xff\xfe\0\0" + data[2:], is_sorted()),
        "filled-markers": (lambda: data[:2] + b"\xff" * 500 + data[2:], is_sorted()),
        "junk-between": (lambda: after_start(segment(0xFE), bytes(300)), is_sorted()),
        "restart-0": (lambda: after_start(segment(0xDD, b"\0\0")), is_sorted()),
        "restart-missing": (lambda: data[:2] + segment(0xDD, b"\0\1") + data[2:], _CONCEALED),
        "lines-later": (
            lambda: data[:2] + segment(0xDC, b"\0\x20") + data[2:],
            either("corrupt", why="DNL is before a frame"),
        ),
        "thumbnail": (lambda: after_start(segment(_EXIF, b"Exif\0\0" + EXIF_6 + thumbnail)), is_sorted()),
        "thumbnail-cut": (
            lambda: data[:2] + segment(_EXIF, b"Exif\0\0" + thumbnail) + data[2 : scan + 40],
            rejected("truncated"),
        ),
        "extraneous": (lambda: data[:-2] + b"\1\2\3\4" + EOI, is_sorted()),
    }


def _frame_headers() -> Files:
    return {
        "precision-12": (lambda: _frame(3, b"\x0c"), rejected("unsupported")),
        "precision-16": (lambda: _frame(3, b"\x10"), rejected("unsupported")),
        "precision-0": (lambda: _frame(3, b"\0"), rejected("corrupt")),
        "lossless": (lambda: _frame(0, b"\xc3"), rejected("corrupt")),
        "differential": (lambda: _frame(0, b"\xc5"), rejected("corrupt")),
        "arithmetic": (
            lambda: _frame(0, b"\xc9"),
            either("corrupt", "truncated", why="the codec finds pixels in any codes"),
        ),
        "components-0": (lambda: _frame(8, b"\0"), rejected("corrupt")),
        "components-2": (lambda: _frame(8, b"\2"), rejected("corrupt")),
        "components-5": (lambda: _frame(8, b"\5"), rejected("corrupt")),
        "components-255": (lambda: _frame(8, b"\xff"), rejected("corrupt")),
        "sampling-0": (lambda: _frame(10, b"\0"), rejected("corrupt")),
        "sampling-5": (lambda: _frame(10, b"\x55"), rejected("corrupt")),
    }


def _metadata() -> Files:
    return {
        "exif-empty": (lambda: _exif(b""), is_sorted()),
        "exif-junk": (lambda: _exif(b"not a directory"), is_sorted()),
        "exif-loop": (lambda: _exif(_loop()), is_sorted()),
        "exif-list": (lambda: _exif(_claims(2**31, 3)), is_sorted()),
        "exif-fractions": (lambda: _exif(_claims(2**28, 5)), is_sorted()),
        "exif-unknown-type": (lambda: _exif(_claims(1, 99)), is_sorted()),
        "exif-beyond": (lambda: _exif(b"II*\0\xff\xff\xff\x7f"), is_sorted()),
        "exif-64k": (lambda: _exif(EXIF_6 + bytes(65_000)), is_sorted()),
        "exif-twice": (lambda: after_start(segment(_EXIF, b"Exif\0\0" + EXIF_6) * 2), is_sorted()),
        "exif-prefixes": (lambda: _exif(b"Exif\0\0" * 1000 + EXIF_6), is_sorted()),
        "exif-many-tags": (lambda: _exif(slow_files.exif_tags(5_000)), is_sorted()),
        "exif-big": (lambda: _exif(b"II+\0\x08\0\0\0" + bytes(8)), is_sorted()),
        "profile-part": (lambda: _profile(1, 1, 9), is_sorted()),
        "profile-zero": (lambda: _profile(1, 0, 0), is_sorted()),
        "profile-many": (lambda: _profile(255, 1, 255), is_sorted()),
        "adobe-short": (lambda: after_start(segment(_ADOBE, b"Adobe")), rejected("corrupt")),
        "adobe-unknown": (lambda: after_start(segment(_ADOBE, b"Adobe\0\x64\0\0\0\0\x09")), is_sorted()),
        "photoshop-short": (lambda: after_start(segment(0xED, b"Photoshop 3.0\x008BIM")), is_sorted()),
        "photoshop-many": (lambda: slow_files.photoshop(2), is_sorted()),
        "mpf-junk": (lambda: after_start(segment(0xE2, b"MPF\0" + bytes(40))), is_sorted()),
        "jfif-short": (lambda: _without(0xE0)[:2] + segment(0xE0, b"JFIF\0") + _without(0xE0)[2:], rejected("corrupt")),
        "xmp-entities": (lambda: after_start(segment(_EXIF, b"http://ns.adobe.com/xap/1.0/\0" + _LAUGHS)), is_sorted()),
    }


_LAUGHS = (
    b'<!DOCTYPE a [<!ENTITY l "lol"><!ENTITY m "&l;&l;&l;&l;&l;&l;&l;&l;&l;&l;">'
    b'<!ENTITY n "&m;&m;&m;&m;&m;&m;&m;&m;&m;&m;">]><a>&n;</a>'
)


def _scans() -> Files:
    many = functools.partial(slow_files.progressive_scans, 64)
    return {
        "scans-20": (lambda: many(20), is_sorted()),
        "scans-400": (lambda: many(400), is_sorted()),
        "scans-501": (lambda: many(501), rejected("unsupported")),
        "scans-2000": (lambda: many(2_000), rejected("unsupported")),
        "scans-large": (lambda: slow_files.progressive_scans(1_500, 400), is_sorted()),
        "segments-1900": (lambda: slow_files.app_segments(1_900), is_sorted()),
        "segments-2500": (lambda: slow_files.app_segments(2_500), rejected("unsupported")),
        "segments-exif": (lambda: slow_files.exif_pieces(1_500), is_sorted()),
        "tables-many": (lambda: slow_files.quantization_tables(1), is_sorted()),
    }


def odd_jpegs() -> Iterator[Case]:
    """All of them."""
    families = {"odd JPEG": _damaged() | _frame_headers(), "JPEG metadata": _metadata(), "JPEG scans": _scans()}
    for family, files in families.items():
        for name, (make, expected) in files.items():
            yield Case(f"jpeg-{name}.jpg", family, make, expected)
