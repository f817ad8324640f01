"""The worker's end of the process that writes an archive's files, so that neither a disk that hangs nor the counting
of files holds the worker up.

In: images with their results. Out: what became of each. No call waits for the process longer than it is told to. When
the worker ends, for whatever reason, the process ends by itself: as soon as the disk answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import time
from collections import deque
from pathlib import Path

from shared.subprocesses import name_of_ending, own_command
from worker.archive import writer_messages as messages

_PROGRAM = "worker.archive.writer_program"
# How much the kernel buffers: with its default of 64 KB, the worker's thread would wake for every few images.
_PIPE_BYTES = 1_000_000
_READ_BYTES = 65_536
# How many buffers go into one call (IOV_MAX is at least this).
_MAX_BUFFERS = 64
# After the process has ended, another one starts after this time at the earliest.
_RESTART_WAIT_S = 5.0
# A process that has closed its output, or has nothing left to do, ends at once.
_END_TIMEOUT_S = 1.0


class WriterEnded(Exception):
    """The process ended by itself, or was killed. `lost` images may not be written."""

    def __init__(self, message: str, *, lost: int) -> None:
        super().__init__(message)
        self.lost = lost


class Writer:
    """One process that writes files, or none until it is needed. For one thread."""

    def __init__(self, root: Path, *, max_bytes: int, retry_wait_s: float) -> None:
        """Starts nothing yet. `retry_wait_s`: how long the process waits after a failure."""
        self._arguments = (str(root), str(max_bytes), str(retry_wait_s))
        self._process: subprocess.Popen[bytes] | None = None
        self._starts_at = 0.0  # by time.monotonic(), at the earliest
        self._unsent: deque[memoryview] = deque()
        self._received = b""  # the beginning of a line
        self._last_words = b""  # the last line that was no answer: the end of a traceback
        self.unanswered = 0  # images that were put and not answered

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        process = self._process
        return None if process is None else process.pid

    @property
    def is_sending(self) -> bool:
        """Whether the process has not taken all images yet."""
        return bool(self._unsent)

    def put(self, result_json: bytes, image: bytes) -> None:
        """Send an image and its result in the next exchanges."""
        self._unsent += (memoryview(messages.request_head(result_json, image)), memoryview(image))
        self.unanswered += 1

    def exchange(self, timeout_s: float) -> list[tuple[str, str]]:
        """Send what the process takes, and return its answers: their kinds and texts. Starts the process if need be.

        Returns as soon as anything was sent or received, at the latest after `timeout_s`.

        Raises:
            WriterEnded: the process has ended.
            OSError: it can't be started.
        """
        if self._process is None:
            wait_s = self._starts_at - time.monotonic()
            if wait_s > 0:
                time.sleep(min(wait_s, timeout_s))
                return []
            self._process = self._start()
        assert self._process.stdin is not None and self._process.stdout is not None
        sends = [self._process.stdin] if self._unsent else []
        readable, writable, _ = select.select([self._process.stdout], sends, [], timeout_s)
        if writable:
            self._send(self._process.stdin.fileno())
        return self._receive(self._process) if readable else []

    def close(self) -> int:
        """Close the process's input: it writes what it was given, and ends. Does not wait for what it still writes.

        Returns how many images it has not answered. The next exchange starts another process.
        """
        process, unanswered = self._process, self.unanswered
        self._forget()
        if process is not None:
            _close_pipes(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.0 if unanswered else _END_TIMEOUT_S)
        return unanswered

    def _forget(self) -> None:
        self._process, self.unanswered = None, 0
        self._received = self._last_words = b""
        self._unsent.clear()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process by exec: it holds no connection of the worker's."""
        self._starts_at = time.monotonic() + _RESTART_WAIT_S
        process = subprocess.Popen(  # noqa: S603  # our own program, without a shell
            own_command(*self._arguments, module=_PROGRAM),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # not the worker's: whoever reads that would wait for a process that hangs
            start_new_session=True,  # a terminal sends Ctrl-C, and its end, to the worker alone
        )
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        with contextlib.suppress(OSError, AttributeError):  # Linux has it
            fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return process

    def _send(self, pipe: int) -> None:
        try:
            sent = os.writev(pipe, [self._unsent[n] for n in range(min(len(self._unsent), _MAX_BUFFERS))])
        except (BlockingIOError, BrokenPipeError):  # broken: the process has ended, and `_receive` will notice
            return
        while sent:
            first = self._unsent.popleft()
            if sent < len(first):
                self._unsent.appendleft(first[sent:])
            sent -= min(sent, len(first))

    def _receive(self, process: subprocess.Popen[bytes]) -> list[tuple[str, str]]:
        assert process.stdout is not None
        data = os.read(process.stdout.fileno(), _READ_BYTES)
        if not data:
            self._end(process)
        *lines, self._received = (self._received + data).split(b"\n")
        answers = []
        for line in lines:
            answer = messages.parse_answer(line)
            if answer is None:
                self._last_words = line
            else:
                answers.append(answer)
                self.unanswered -= answer[0] in (messages.WRITTEN, messages.FAILED)
        return answers

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        lost, words = self.unanswered, self._last_words.decode(errors="replace")
        self._forget()
        _close_pipes(process)
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT_S)
        how = "it hangs" if process.returncode is None else name_of_ending(process.returncode)
        raise WriterEnded(f"the process that writes it ended ({how}): {words}", lost=lost)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
