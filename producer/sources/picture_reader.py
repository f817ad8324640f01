"""Reads a picture's file, and returns a frame with its time of capture, or None while the file is being written."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from producer.sources.base import SourceFrame
from producer.sources.capture_time import CaptureTimes
from producer.sources.file_version import SentFile
from producer.sources.picture_files import looks_whole
from shared.printable import printable
from shared.regular_files import open_regular, read_start

_FRAME_ID_CHARS = 256  # maximum length of an ImageJob's frame_id


class PictureReader:
    """Reads files of one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        max_image_bytes: int,
        capture_times: CaptureTimes,
        max_age_s: float | None = None,
        salt: bytes = b"",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            folder: the camera's folder.
            max_image_bytes: of a larger file, only this many bytes plus one are read, so that the camera refuses it.
            capture_times: tells when a picture was taken.
            max_age_s: a picture taken longer ago is not read, and its frame is `too_old`; None: no picture is too old.
            salt: begins the key of each frame.
            wall_clock: UTC epoch seconds.
        """
        self._folder = folder
        self._max_image_bytes = max_image_bytes
        self._capture_times = capture_times
        self._max_age_s = max_age_s
        self._salt = salt
        self._wall_clock = wall_clock

    def read(self, file: SentFile, *, as_it_is: bool) -> SourceFrame | None:
        """Return the frame of this version of a file; None if the file has changed, or is not a whole picture.

        With `as_it_is`, the picture need not be whole.

        Raises:
            OSError: the file can't be read; FileNotFoundError if it is gone.
        """
        now = self._wall_clock()
        captured_at = self._capture_times.captured_at(file.name, file.version.modified_ns, now)
        if captured_at is None:
            return self._frame(file, problem="its name has no time of the form that --stamp-pattern gives")
        if self._max_age_s is not None and now - captured_at > self._max_age_s:
            return self._frame(file, captured_at=captured_at, too_old=True)
        with open_regular(self._folder / file.name) as opened:
            data = opened.read(self._max_image_bytes + 1)
            has_changed = not file.version.is_of(os.fstat(opened.fileno()))
        if has_changed or not (as_it_is or self.is_whole(data)):
            return None
        return self._frame(file, data=data, captured_at=captured_at)

    def digest(self, name: str) -> bytes | None:
        """The digest of what is read of a file, as `digest_of` computes it; None if the file can't be read."""
        try:
            return digest_of(read_start(self._folder / name, max_bytes=self._max_image_bytes))
        except OSError:
            return None

    def is_whole(self, data: bytes) -> bool:
        """Whether these bytes need no more time: a picture up to its end, or more than may be sent."""
        return len(data) > self._max_image_bytes or looks_whole(data)

    def unreadable(self, file: SentFile, error: OSError) -> SourceFrame:
        """The frame of a file that can't be read."""
        return self._frame(file, problem=f"can't be read: {error.strerror}")

    def _frame(
        self,
        file: SentFile,
        *,
        data: bytes = b"",
        problem: str | None = None,
        captured_at: float | None = None,
        too_old: bool = False,
    ) -> SourceFrame:
        name = _shortened(printable(file.name))
        key = self._salt + file.key
        return SourceFrame(
            name, name, data, problem, captured_at=captured_at, too_old=too_old, file=file, picture_key=key
        )


def digest_of(data: bytes) -> bytes:
    """A digest of a picture's bytes, by which a file that only got another time is recognized."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _shortened(name: str) -> str:
    """The end of a path that is too long for a frame_id."""
    return name if len(name) <= _FRAME_ID_CHARS else "…" + name[1 - _FRAME_ID_CHARS :]
