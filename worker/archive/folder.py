"""The folder of an archive: writes an image and its result, each complete or absent, within `archive_max_bytes`.

A file is written under `.incoming` and then renamed. The image comes before its result: if there is a result, its
image is complete. Nothing is synced (fsync), which would cost more than all the rest: after a power cut, the files of
the last seconds may be empty.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from pathlib import Path

from worker.archive.files import INCOMING, RESULT_SUFFIX, as_host, image_suffix, on_disk, stem_of
from worker.archive.size_bound import SizeBound

# Files that a killed worker left in `.incoming` are removed when they are this old: another worker may be writing the
# younger ones.
LEFTOVER_S = 3600.0


class ArchiveFolder:
    """One archive, for one writer."""

    def __init__(self, root: Path, *, max_bytes: int, host: str | None = None) -> None:
        """Does not touch the disk. `host`: this machine's name by default."""
        self.root = root
        self._host = as_host(host or socket.gethostname())
        self._incoming = root / INCOMING
        self._bound = SizeBound(root, max_bytes=max_bytes)

    def prepare(self) -> None:
        """Make sure that the archive can be written to.

        The folder itself is never made: below a mount point whose disk is missing, images would fill another disk.

        Raises:
            OSError: it can't be written to; see `explain`.
        """
        with contextlib.suppress(FileExistsError):
            self._incoming.mkdir()
        for name in os.listdir(self._incoming):
            with contextlib.suppress(OSError):  # what can't be removed hinders nobody
                if time.time() - (self._incoming / name).stat().st_mtime > LEFTOVER_S:
                    (self._incoming / name).unlink()
        probe = self._incoming / f"probe_{self._host}_{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)

    def write(self, image: bytes, result_json: bytes) -> None:
        """Add an image and its result, and remove the oldest ones if there are too many.

        Raises:
            OSError: they can't be written, and neither file is left; see `explain`.
        """
        self._bound.make_room(on_disk(len(image)) + on_disk(len(result_json)))
        stem = stem_of(json.loads(result_json), host=self._host)
        image_path = f"{self.root}/{stem}{image_suffix(image)}"
        self._put(image_path, image)
        try:
            self._put(f"{self.root}/{stem}{RESULT_SUFFIX}", result_json)
        except OSError:
            _remove_if_there(image_path)
            raise

    def _put(self, path: str, data: bytes) -> None:
        """Write a file under `.incoming`, and rename it to `path`.

        Paths are text here: building each as a Path would take longer than writing the files.
        """
        incoming = f"{self._incoming}/{os.path.basename(path)}"
        try:
            with open(incoming, "wb") as file:
                file.write(data)
            try:
                os.rename(incoming, path)
            except FileNotFoundError:  # the first file of its folder, or another worker has just removed the last one
                self._make_folders_of(path)
                os.rename(incoming, path)
        except OSError:
            _remove_if_there(incoming)
            raise

    def _make_folders_of(self, path: str) -> None:
        """Make the folders of a day and of a line, but never the archive itself: its disk may just have gone."""
        line = os.path.dirname(path)
        for folder in (os.path.dirname(line), line):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)

    def explain(self, error: Exception) -> str:
        """What is wrong with the archive, and how to fix it."""
        if not isinstance(error, OSError) or error.errno not in _CAUSES:
            return f"{error}: check its disk"
        what, fix = _CAUSES[error.errno]
        return f"{self._subject_of(error)} {what}: {fix.format(user=os.geteuid())}"

    def _subject_of(self, error: OSError) -> str:
        """The part of the archive that stands in the way; `it`, the archive, if the error is about its disk."""
        path = os.fsdecode(error.filename2 or error.filename or self.root)
        if error.errno == errno.ENOTDIR:
            above = reversed((Path(path), *Path(path).parents))
            path = next((str(part) for part in above if os.path.isfile(part)), path)
        elif error.errno in (errno.EACCES, errno.EPERM):  # it is the folder that refuses what is new in it
            path = path if os.path.isdir(path) else os.path.dirname(path)
        else:
            return "it"
        part = os.path.relpath(path, self.root)
        return "it" if part == "." or part.startswith("..") else part


def _remove_if_there(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


_CAUSES = {
    errno.ENOENT: ("does not exist", "create the folder, or mount its disk"),
    errno.ENOTDIR: ("is not a folder", "move it away, or name another folder"),
    errno.EACCES: ("is not writable", "let the user {user} write there"),
    errno.EPERM: ("is not writable", "let the user {user} write there"),
    errno.EROFS: ("is mounted read-only", "mount it for writing"),
    errno.ENOSPC: ("is on a full disk", "free some space, and lower archive_max_bytes"),
    errno.EDQUOT: ("has used up its disk quota", "raise the quota, or lower archive_max_bytes"),
    errno.EFBIG: ("can't hold so large an image", "raise archive_max_bytes, or the limit on the size of files"),
}
