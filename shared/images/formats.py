"""The accepted image formats, recognized by their first bytes. Not part of `decoding`: producers need no decoder."""

from __future__ import annotations

from shared.errors import BadImage

# Content type to Pillow's name of the format.
FORMATS = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
}
ACCEPTED = ", ".join(FORMATS.values())

_SIGNATURES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"II+\0": "image/tiff",  # BigTIFF
    b"MM\0+": "image/tiff",
}
# "BM" alone also begins plain text, so the size of the header that follows must be one that exists.
_BMP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}

# Other formats that people send, named in the message.
_OTHER_FORMATS = {
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"8BPS": "a Photoshop file",
    b"PK\x03\x04": "a zip archive or office document",
    b"\x1f\x8b": "gzip data",
    b"\0\0\x01\0": "an icon (ICO)",
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"\0\0\0\x0cJXL ": "a JPEG XL",
    b"\xff\x0a": "a JPEG XL",
    b"\0\0\0\0": "zero bytes (a file still being written?)",
}
_ISO_BRANDS = {b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIC", b"avif": "an AVIF", b"avis": "an AVIF"}


def sniff(data: bytes) -> str:
    """Determine the content type from the first bytes, e.g. `image/jpeg`; reads only a few bytes.

    Raises:
        BadImage: `empty`, or `format`: not an accepted format; the message says what the data look like.
    """
    if not data:
        raise BadImage("empty", "the image has no bytes: was the file written completely?")
    for signature, content_type in _SIGNATURES.items():
        if data.startswith(signature):
            return content_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return "image/bmp"
    raise BadImage("format", f"not an accepted image but {_looks_like(data)}: use {ACCEPTED}.")


def _looks_like(data: bytes) -> str:
    for signature, name in _OTHER_FORMATS.items():
        if data.startswith(signature):
            return name
    if data[4:8] == b"ftyp":
        return _ISO_BRANDS.get(data[8:12], "an MP4 or QuickTime video")
    text = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if text.startswith((b"<?xml", b"<svg")):
        return "XML or SVG"
    if text.startswith((b"{", b"[")):
        return "JSON"
    if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
        return "text"
    return f"unknown data beginning {data[:8].hex(' ')}"
