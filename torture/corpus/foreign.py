"""Files of other formats, files that are two things at once, and names with tricks."""

from __future__ import annotations

import functools
import io
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator

from torture.corpus.bombs import png_chunk
from torture.corpus.case import Case, is_sorted, rejected
from torture.corpus.damaged import suffix_of
from torture.corpus.pictures import encoded, picture
from torture.corpus.slow_files import after_start, segment

_PILLOW_FORMATS = ("GIF", "ICO", "PPM", "TGA", "PCX", "SGI", "DDS", "ICNS", "EPS", "PDF", "JPEG2000")
_EPOCH = time.gmtime(0)
_HTML = b"<!DOCTYPE html><html><script>alert(1)</script></html>"
_PHP = b"<?php system($_GET['c']); ?>"
_SCRIPT = b"#!/bin/sh\ntouch /tmp/owned\n"
_ELF = b"\x7fELF\2\1\1" + bytes(57)
_EXE = b"MZ\x90\0" + bytes(60) + b"PE\0\0"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
_XXE = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>'
_PICKLE = b"cos\nsystem\n(S'touch /tmp/owned'\ntR."


def zip_file() -> bytes:
    """A zip archive of one class file, as in a GIFAR."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("A.class", (2020, 1, 1, 0, 0, 0)), b"\xca\xfe\xba\xbe" + bytes(40))
    return out.getvalue()


def _of_pillow(kind: str) -> bytes:
    image = picture(32, 32)
    # Pillow would write the time of day.
    times = {"creationDate": _EPOCH, "modDate": _EPOCH} if kind == "PDF" else {}
    return encoded(image.quantize(16) if kind in ("GIF", "PCX") else image, kind, **times)


def _box(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + brand + b"mif1" + bytes(200)


_OTHERS: dict[str, bytes] = {
    "photoshop": b"8BPS\0\1" + bytes(40),
    "gzip": b"\x1f\x8b\x08" + bytes(30),
    "jxl": b"\xff\x0a" + bytes(30),
    "jxl-box": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20),
    "heic": _box(b"heic"),
    "avif": _box(b"avif"),
    "mp4": _box(b"isom"),
    "wave": b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt " + bytes(30),
    "avi": b"RIFF" + struct.pack("<I", 40) + b"AVI LIST" + bytes(30),
    "html": _HTML,
    "svg": _SVG,
    "xxe": _XXE,
    "json": b'{"image": "a.jpg"}',
    "text": b"BM is how this text begins, and it is no bitmap",
    "text-utf16": "a text".encode("utf-16"),
    "script": _SCRIPT,
    "php": _PHP,
    "elf": _ELF,
    "exe": _EXE,
    "class": b"\xca\xfe\xba\xbe" + bytes(40),
    "pickle": _PICKLE,
    "pickle-4": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "tar": b"a.jpg".ljust(257, b"\0") + b"ustar\0" + bytes(249),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(26),
    "rar": b"Rar!\x1a\x07\x01\0" + bytes(20),
    "xz": b"\xfd7zXZ\0" + bytes(20),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "sqlite": b"SQLite format 3\0" + bytes(80),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n(/tmp/owned) deletefile\n",
    "mvg": b"push graphic-context\nfill 'url(https://127.0.0.1/|touch /tmp/owned)'\n",
    "wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "exr": b"\x76\x2f\x31\x01" + bytes(40),
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "zeros": bytes(5_000),
    "ones": b"\xff" * 5_000,
    "one-byte": b"\xff",
    "two-bytes": b"\xff\xd8",
    "half-signature": b"\x89PNG\r\n",
    "png-of-unix": b"\x89PNG\n\x1a\n" + bytes(50),  # line ends were converted
    "late-jpeg": b"\n" + encoded(picture(), "JPEG"),
    "base64": b"data:image/png;base64,iVBORw0KGgo=",
    "bmp-odd-header": b"BM" + bytes(12) + struct.pack("<I", 41) + bytes(60),
    "gif-bomb": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0," + bytes(8) + b"\0\2\2L\1\0;",
    "webp-no-riff": b"RIFX" + bytes(4) + b"WEBP" + bytes(20),
}


def other_formats() -> Iterator[Case]:
    """Formats that are not accepted, under a picture's name."""
    for kind in _PILLOW_FORMATS:
        yield Case(
            f"format-{kind.lower()}.jpg", "other format", functools.partial(_of_pillow, kind), rejected("format")
        )
    for name, data in _OTHERS.items():
        yield Case(f"format-{name}.jpg", "other format", functools.partial(bytes, data), rejected("format"))
    yield Case("empty.jpg", "other format", bytes, rejected("empty"))
    # `upload` takes it for an archive, and opens it.
    broken = b"PK\3\4" + bytes(60)
    yield Case("format-zip.jpg", "other format", functools.partial(bytes, broken), rejected("format", "unreadable"))


_PAYLOADS: dict[str, bytes] = {
    "html": _HTML,
    "php": _PHP,
    "script": b"\n" + _SCRIPT,
    "elf": _ELF,
    "exe": _EXE,
    "pdf": b"%PDF-1.7\n1 0 obj<</OpenAction 2 0 R>>endobj\n%%EOF",
    "pickle": _PICKLE,
    "zip": b"",  # made when it is needed
    "noise": bytes(range(1, 256)) * 8,
    "another": b"",
}


def _payload(name: str) -> bytes:
    if name == "zip":
        return zip_file()
    return encoded(picture(seed=3), "GIF") if name == "another" else _PAYLOADS[name]


def _followed(kind: str, payload: str) -> bytes:
    return encoded(picture(), kind) + _payload(payload)


def _preceded(kind: str, payload: str) -> bytes:
    return _payload(payload) + encoded(picture(), kind)


def polyglots() -> Iterator[Case]:
    """Images followed by something else, or preceded by it, or with something else inside."""
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        suffix = suffix_of(kind.lower())
        for payload in _PAYLOADS:
            make = functools.partial(_followed, kind, payload)
            yield Case(f"{kind.lower()}-then-{payload}{suffix}", "polyglot", make, is_sorted())
            reasons = ("format", "unreadable") if payload == "zip" else ("format",)
            make = functools.partial(_preceded, kind, payload)
            if payload != "zip":  # `upload` opens it as the archive that it is
                yield Case(f"{payload}-then-{kind.lower()}{suffix}", "polyglot", make, rejected(*reasons))
    for name, data in _within().items():
        yield Case(f"within-{name}", "polyglot", functools.partial(bytes, data), is_sorted())


def _within() -> dict[str, bytes]:
    png = encoded(picture(), "PNG")
    text = png[:33] + png_chunk(b"tEXt", b"Comment\0" + _PHP) + png[33:]
    packed = png[:33] + png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(_HTML * 100)) + png[33:]
    return {
        "comment.jpg": after_start(segment(0xFE, _PHP)),
        "javascript.jpg": after_start(segment(0xFE, b"*/=alert(1);/*")),
        "app-segment.jpg": after_start(segment(0xE5, zip_file())),
        "text.png": text,
        "packed-text.png": packed,
        "profile.png": encoded(picture(), "PNG", icc_profile=_SCRIPT * 30),
        "profile.jpg": encoded(picture(), "JPEG", icc_profile=_HTML * 30),
        "exif.webp": encoded(picture(), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0" + _PHP),
    }


_NAMES: tuple[bytes, ...] = (
    *(b"a b.jpg", b" leading.jpg", b"trailing .jpg", b"two..dots.jpg", b"UPPER.JPG", b"no-suffix.jpeg", b"-rf.jpg"),
    *(b"--help.jpg", b"=cmd|' C calc'!A0.jpg", b"@SUM(1).jpg", b"+1.jpg", b"$(reboot).jpg", b"`reboot`.jpg"),
    *(b";reboot;.jpg", b"a|b.jpg", b"a&b.jpg", b"a>b.jpg", b"a*b?.jpg", b"[a].jpg", b"{a,b}.jpg", b"'quoted'.jpg"),
    *(b'"quoted".jpg', b"%00.jpg", b"%s%n.jpg", b"{0}.jpg", b"a\\b.jpg", b"C:a.jpg", b"con.jpg", b"~.x.jpg"),
    *(
        b"\x1b[31mred.jpg",
        b"\x1b]0;title\x07.jpg",
        b"new\nline.jpg",
        b"tab\there.jpg",
        b"return\rhere.jpg",
        b"\x7f.jpg",
    ),
    *("übung.jpg".encode(), "u\u0308bung.jpg".encode(), "\U0001f37e.jpg".encode(), "瓶.jpg".encode()),
    *("\u202egpj.exe.jpg".encode(), "\u200bzero.jpg".encode(), "\ufeffmark.jpg".encode()),
    *(b"latin-\xfc.jpg", b"\xff\xfe.jpg", b"\xed\xa0\x80.jpg", b"n" * 240 + b".jpg", b"jpeg-in.png", b"jpeg-in.tiff"),
    *(b"a.php.jpg", b"a.jpg.php.jpg", b"a.zip.jpg", b"<b>bold.jpg", b"a,b;c.jpg", b"a/../x.jpg".replace(b"/", b"_")),
)


def names() -> Iterator[Case]:
    """Whole images under names that mean something to a terminal, a shell, a table or a file system."""
    for name in _NAMES:
        make = functools.partial(encoded, picture(), "JPEG")
        yield Case(os.fsdecode(name), "name", make, is_sorted())
