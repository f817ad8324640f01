"""Run as a program by `worker.archive.writer`: writes an archive's files, outside the worker.

    python -P -m worker.archive.writer_program ROOT MAX_BYTES RETRY_WAIT_S

In: requests on standard input. Out: answers on standard output. `writer_messages` defines both.

The program ends when its standard input closes, which happens when the worker ends for any reason, kill -9 included.
While the disk hangs it can't end; nobody waits for that.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from worker.archive import writer_messages as messages
from worker.archive.folder import ArchiveFolder

# Sorting has precedence.
_NICENESS = 10


def main(root: str, max_bytes: int, retry_wait_s: float) -> None:
    """Write the images that come on standard input until it closes."""
    # The worker decides when this process ends. systemd, for example, sends SIGTERM to all processes of a service.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    folder = ArchiveFolder(Path(root), max_bytes=max_bytes)
    failures = 0  # in a row
    while True:
        is_ready = attempt(folder, folder.prepare, done=messages.READY, failed=messages.UNREADY)
        works: bool | None = is_ready
        while works:
            works = write_next(folder)
            failures = 0 if works else failures + 1
        # After one failure it goes on at once: it may be the image, or its line's folder, and not the disk.
        if works is None or ((not is_ready or failures > 1) and input_closes_within(retry_wait_s)):
            return


def write_next(folder: ArchiveFolder) -> bool | None:
    """Write the next image. Whether this worked; None once standard input has closed."""
    request = messages.read_request(sys.stdin.buffer)
    if request is None:
        return None
    result_json, image = request
    return attempt(folder, lambda: folder.write(image, result_json), done=messages.WRITTEN, failed=messages.FAILED)


def attempt(folder: ArchiveFolder, work: Callable[[], None], *, done: str, failed: str) -> bool:
    """Do this on the disk, and answer `done`, or `failed` and why. Returns whether it was done."""
    try:
        work()
    except OSError as error:
        send(failed, folder.explain(error))
        return False
    except Exception as error:  # whatever it is, the next image may be written
        send(failed, f"{folder.explain(error)}\n{traceback.format_exc()}")
        return False
    send(done)
    return True


def send(kind: str, text: str = "") -> None:
    """Send an answer. If the worker has ended, nobody wants it, and the remaining requests are written all the same."""
    try:
        sys.stdout.buffer.write(messages.answer(kind, text))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def input_closes_within(seconds: float) -> bool:
    """Wait, or until standard input closes. Requests that wait on it don't end the wait."""
    poll = select.poll()
    poll.register(0, 0)  # for no event: only its end is reported
    return bool(poll.poll(seconds * 1000))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
