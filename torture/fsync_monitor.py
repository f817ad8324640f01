"""Knows how much of each file of a process is on the disk: it carries out the process's fsyncs. For `torture.server`.

After SIGKILL the page cache survives, so that a killed server finds on its restart also what it had never synced. A
power cut leaves what was synced. Which part that is only the fsyncs themselves tell, so the kernel hands them over
(`torture.exec_server`): the monitor notes the file's size, syncs the file, and lets the process go on.
(WAITAOF does not tell: with `appendfsync everysec` it answers before the fsync, redis#13793, in Valkey 9.1 too.)
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
    """Carries out the fsyncs of one process, its threads and its children, in a thread of its own."""

    def __init__(self, listener: int) -> None:
        """Starts the thread, which takes the listener over and closes it in the end."""
        self._listener = listener
        # By name, which only the files that Valkey appends to keep for life.
        self._synced_bytes: dict[str, int] = {}
        # Held while a file is synced. Reentrant, so that whoever holds the fsyncs up can use the monitor meanwhile.
        self._sync_lock = threading.RLock()
        self._closed = False
        threading.Thread(target=self._serve, name="fsync-monitor", daemon=True).start()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No fsync begins or ends during the block: a disk that hangs."""
        with self._sync_lock:
            yield

    def synced_bytes(self) -> dict[str, int]:
        """The size that each file had at its last fsync, by the file's name; not those that were never synced."""
        with self._sync_lock:
            return dict(self._synced_bytes)

    def close(self) -> None:
        """Sync and note nothing more. The process must have ended: its next fsync would fail."""
        with self._sync_lock:
            self._closed = True

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        try:
            while not self._closed:
                for _, events in poll.poll(_POLL_MS):
                    if not events & select.POLLIN:
                        return  # nobody is left who could call fsync
                    self._answer_next()
        finally:
            os.close(self._listener)

    def _answer_next(self) -> None:
        request = bytearray(_REQUEST.size)
        # ENOENT: the caller was killed, before we had its request or before it had our answer.
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(self._listener, _RECEIVE, request)
            request_id, process_id, *_, descriptor = _REQUEST.unpack(request)[:7]
            with self._sync_lock:
                if self._closed:
                    return
                error = self._sync(Path(f"/proc/{process_id}/fd/{descriptor}"))
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(request_id, 0, -error, 0))

    def _sync(self, link: Path) -> int:
        """Sync the file behind a descriptor of the process; an error number, or 0."""
        try:
            name = link.readlink().name  # now: the link is gone when the process is killed meanwhile
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
