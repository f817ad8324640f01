"""Files that are no files, under the names of pictures: what a folder of strangers may hold."""

from __future__ import annotations

import os
import socket
from pathlib import Path

IRREGULAR = "not a regular file, but a pipe, socket, device or link"
SPARSE_BYTES = 20_000_000_000


def make_irregular_files(folder: Path) -> dict[str, str]:
    """Create them in the folder; returns the reason why each can't be read, by its name."""
    os.mkfifo(folder / "fifo.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "dangling.jpg").symlink_to("nothing")
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "dir.jpg").mkdir()  # a folder like any other
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.jpg"))  # a whole path may be too long for a socket
    return {
        "fifo.jpg": IRREGULAR,
        "zero.jpg": IRREGULAR,
        "socket.jpg": IRREGULAR,
        "dangling.jpg": "No such file or directory",
        "self.jpg": "Too many levels of symbolic links",
    }


def make_sparse_file(path: Path) -> Path:
    """Create a file that claims 20 GB and takes no space."""
    path.touch()
    os.truncate(path, SPARSE_BYTES)
    return path
