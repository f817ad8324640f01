"""What the kernel says of a process, in /proc."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def proc_status_bytes(pid: int, field: str) -> int:
    """A size in `/proc/PID/status`, such as `VmRSS`, or `VmHWM`, its peak. 0 if the process has ended.

    Raises:
        OSError: there is no such process.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def family(pid: int) -> Iterator[int]:
    """The process, its children, and theirs."""
    yield pid
    with contextlib.suppress(OSError):  # it has just ended
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from family(int(child))
