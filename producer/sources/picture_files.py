"""Tells which files of a folder are pictures, by their names, and which are completely written, by their bytes."""

from __future__ import annotations

import os
from pathlib import PurePath

from shared.system_files import is_left_out

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff")
# Picture formats that Sortline can't read. Such a file is handed out, so that the camera rejects and names it.
_REFUSED_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl")
# Files that cameras, FTP servers and desktops put beside pictures. They are passed over without a log line.
_SIDE_SUFFIXES = frozenset(
    {".xml", ".txt", ".json", ".csv", ".ini", ".db", ".log", ".md5", ".sha1", ".sha256", ".xmp", ".meta", ".lock"}
    | {".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".swp", ".uploading", ".writing"}
)

_JPEG_SCAN = 0xDA
_JPEG_END = b"\xff\xd9"  # can't occur inside a scan's data
_PNG_END_WITHIN = 4096


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its name; hidden files are not."""
    base = PurePath(name).name
    return not base.startswith(".") and suffix_of(base) in (*PICTURE_SUFFIXES, *_REFUSED_SUFFIXES)


def is_side_file(name: str) -> bool:
    """Whether, by its name, a file is of a kind that commonly lies beside pictures, or is unfinished.

    A picture's name with any further suffix, such as `a.jpg.upload`, is the name that a writer uses until it is done.
    """
    base = PurePath(name).name
    is_unfinished = base.endswith("~") or is_picture(os.path.splitext(base)[0])
    return base.startswith(".") or is_unfinished or suffix_of(base) in _SIDE_SUFFIXES


def is_system_folder(name: str) -> bool:
    """Whether a sub-folder is hidden, or one that a system creates for itself."""
    return is_left_out(PurePath(name).name)


def suffix_of(name: str) -> str:
    """The last suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def looks_whole(data: bytes) -> bool:
    """Whether the bytes are a picture up to its end. Checks markers and sizes only: a damaged one may look whole."""
    if data.startswith(b"\xff\xd8"):
        return 0 < _first_scan(data) < data.rfind(_JPEG_END)
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data[-_PNG_END_WITHIN:]
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    if data.startswith(b"BM"):
        return 0 < int.from_bytes(data[2:6], "little") <= len(data)
    if data.startswith((b"II", b"MM")):
        return 0 < _first_directory(data) < len(data)
    return False


def _first_scan(data: bytes) -> int:
    """The offset of a JPEG's first scan, after the header, which may hold a thumbnail with its own end; 0 if none."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 1 < len(data):
        if data[at + 1] == _JPEG_SCAN:
            return at
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def _first_directory(data: bytes) -> int:
    """The offset of a TIFF's first directory. Writers that put the directory at the end write this offset last."""
    is_big = 43 in data[2:4]
    field = data[8:16] if is_big else data[4:8]
    return int.from_bytes(field, "little" if data.startswith(b"II") else "big")
