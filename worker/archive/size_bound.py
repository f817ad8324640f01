"""Keeps an archive below its bound: counts its files from time to time, and removes the oldest.

Workers that share an archive know nothing of each other. Each counts what is there whenever it has written a hundredth
of the bound, and begins to remove at nine tenths: so ten workers can all write that hundredth between two counts. All
remove the same files in the same order. So a file that another worker removed first counts as removed, and workers that
prune at the same time remove no more together than each of them alone.
"""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Iterator
from pathlib import Path

from worker.archive.files import ArchivedFile, files_in, incoming_bytes, remove

COUNT_EVERY = 0.01  # count again when this worker has written this share of the bound
PRUNE_ABOVE = 0.90
PRUNE_DOWN_TO = 0.85
# How many files are listed at a time, and so removed at most before the archive is counted again.
_ROUND_FILES = 10_000


class SizeBound:
    """The bound of one archive, for one writer."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._since_count_bytes: int | None = None  # what this worker has written; None: it has not counted yet

    def make_room(self, count_bytes: int) -> None:
        """Make room for files that take `count_bytes` on the disk. Call it before they are written.

        Raises:
            OSError: the archive can't be counted, its oldest files can't be removed, or the files are too large for it.
        """
        if count_bytes > PRUNE_DOWN_TO * self._max_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        written = self._since_count_bytes
        if written is None or written + count_bytes > COUNT_EVERY * self._max_bytes:
            self._prune(count_bytes)
            self._since_count_bytes = 0
        assert self._since_count_bytes is not None
        self._since_count_bytes += count_bytes

    def _prune(self, count_bytes: int) -> None:
        limit = PRUNE_ABOVE * self._max_bytes
        while True:
            total_bytes, oldest = _count(self._root)
            if total_bytes + count_bytes <= limit or not oldest:
                return
            limit = PRUNE_DOWN_TO * self._max_bytes
            stem = ""
            for file in oldest:
                if file.stem != stem and total_bytes + count_bytes <= limit:
                    return  # an image goes together with its result
                stem = file.stem
                remove(file)
                total_bytes -= file.size_bytes


def _count(root: Path) -> tuple[int, list[ArchivedFile]]:
    """How many bytes an archive takes on the disk, and its oldest files in order."""
    total_bytes = incoming_bytes(root)

    def counted() -> Iterator[ArchivedFile]:
        nonlocal total_bytes
        for file in files_in(root):
            total_bytes += file.size_bytes
            yield file

    oldest = heapq.nsmallest(_ROUND_FILES, counted())
    return total_bytes, oldest
