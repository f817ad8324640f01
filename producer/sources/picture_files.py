"""Which files of a folder are pictures, by name, and whether one is completely written, by its bytes."""

from __future__ import annotations

import os
from pathlib import PurePath

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff")
# Formats that people send by mistake: handed out, so that each is rejected by name rather than passed over.
_REFUSED_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl")
# What cameras, FTP servers and desktops put beside pictures: passed over without a word.
_SIDE_SUFFIXES = frozenset(
    {".xml", ".txt", ".json", ".csv", ".ini", ".db", ".log", ".md5", ".sha1", ".sha256", ".xmp", ".meta", ".lock"}
    | {".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".swp", ".uploading", ".writing"}
)
# Folders that network storage and desktops make; some hold thumbnails.
_SYSTEM_FOLDERS = frozenset({"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"})

_JPEG_SCAN = 0xDA
_JPEG_END = b"\xff\xd9"  # can't be part of a scan's own data
_PNG_END_WITHIN = 4096


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture; hidden files are none."""
    base = PurePath(name).name
    return not base.startswith(".") and suffix_of(base) in (*PICTURE_SUFFIXES, *_REFUSED_SUFFIXES)


def is_side_file(name: str) -> bool:
    """Whether a file's name is one of those that commonly lie beside pictures, or of an unfinished file."""
    base = PurePath(name).name
    return base.startswith(".") or base.endswith("~") or suffix_of(base) in _SIDE_SUFFIXES


def is_system_folder(name: str) -> bool:
    """Whether a sub-folder is hidden, or made by a system for itself."""
    base = PurePath(name).name
    return base.startswith(".") or base.lower() in _SYSTEM_FOLDERS


def suffix_of(name: str) -> str:
    """The last suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def looks_whole(data: bytes) -> bool:
    """Whether the bytes are a picture with its end. Reads markers and sizes only: a damaged picture may look whole."""
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
    """Where a JPEG's picture begins: behind its header, which may hold a thumbnail with an end. 0 if nowhere."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 1 < len(data):
        if data[at + 1] == _JPEG_SCAN:
            return at
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def _first_directory(data: bytes) -> int:
    """Where a TIFF's first directory is; writers that put it at the end fill this in last."""
    is_big = 43 in data[2:4]
    field = data[8:16] if is_big else data[4:8]
    return int.from_bytes(field, "little" if data.startswith(b"II") else "big")
