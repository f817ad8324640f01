"""The fsync monitor: carries out the fsyncs of a process, and so knows how much of each file is on the disk.

After SIGKILL the page cache survives, so a restarted server also finds what it had never synced. A power cut leaves
only what was synced. Only the fsyncs tell how much that was. So the kernel hands them to the monitor
(`torture.server.exec_server`), which notes the file's size, syncs the file, and lets the process go on.

WAITAOF doesn't tell it: with `appendfsync everysec` it answers before the fsync (redis#13793, and in Valkey 9.1 too).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

# linux/seccomp.h: the requests of ioctl, and the structs that they read and write.
_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_REQUEST = struct.Struct("=QIIiIQ6Q")  # id, process, flags; system call, architecture, instruction, arguments
_ANSWER = struct.Struct("=QqiI")  # id, value, error, flags
_POLL_MS = 100


class FsyncMonitor:
    """Carries out the fsyncs of one process, its threads and its children, on a thread of its own."""

    def __init__(self, listener: int) -> None:
        """Starts the thread, which takes over the listener (a file descriptor) and closes it in the end."""
        self._listener = listener
        # By the file's name. Valkey never renames the files that it appends to.
        self._synced_bytes: dict[str, int] = {}
        # Held while a file is synced. Reentrant, so that the thread inside `held` can still use the monitor.
        self._sync_lock = threading.RLock()
        self._closed = False
        threading.Thread(target=self._serve, name="fsync-monitor", daemon=True).start()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """During the block no fsync begins or ends, as if the disk hung."""
        with self._sync_lock:
            yield

    def synced_bytes(self) -> dict[str, int]:
        """By name: the size of each file at its last fsync. Files that were never synced are missing."""
        with self._sync_lock:
            return dict(self._synced_bytes)

    def close(self) -> None:
        """Stop. The process must have ended, because its next fsync would fail."""
        with self._sync_lock:
            self._closed = True

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        try:
            while not self._closed:
                for _, events in poll.poll(_POLL_MS):
                    if not events & select.POLLIN:
                        return  # all the processes have ended
                    self._answer_next()
        finally:
            os.close(self._listener)

    def _answer_next(self) -> None:
        request = bytearray(_REQUEST.size)
        # ENOENT: the process was killed before the request was read, or before the answer was sent.
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(self._listener, _RECEIVE, request)
            request_id, process_id, *_, descriptor = _REQUEST.unpack(request)[:7]
            with self._sync_lock:
                if self._closed:
                    return
                error = self._sync(Path(f"/proc/{process_id}/fd/{descriptor}"))
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(request_id, 0, -error, 0))

    def _sync(self, link: Path) -> int:
        """Sync the file behind a descriptor of the process; 0, or an error number."""
        try:
            name = link.readlink().name  # before the sync: the link vanishes if the process is killed
            file = os.open(link, os.O_RDONLY)
            try:
                # Before the sync: what is written during it may or may not be on the disk.
                size = os.fstat(file).st_size
                os.fsync(file)
            finally:
                os.close(file)
            self._synced_bytes[name] = size
        except OSError as error:
            return error.errno or errno.EIO
        return 0
