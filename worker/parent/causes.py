"""Causes: tells from a worker's wait status why it died, and whether another worker should take its place."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from shared.cgroups import cgroup_folders, read_text

# The exit code of a worker that ends because a decoder or an engine hangs. Any other exit code is final.
HANGING = 3

# The causes, apart from the names of the signals of a crash. The parent tells the next worker the cause.
HANG = "hang"
OUT_OF_MEMORY = "out of memory"
KILLED = "SIGKILL"  # nobody knows who sent it, so it explains nothing

_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


def cause_of(status: int, *, memory_kills: int) -> str | None:
    """Why the worker died; None if it ended for good.

    Args:
        status: the worker's wait status (`os.waitpid`).
        memory_kills: how many processes of this control group the kernel killed for memory since the worker started.
    """
    if os.WIFEXITED(status):
        return HANG if os.WEXITSTATUS(status) == HANGING else None
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL:
        return OUT_OF_MEMORY if memory_kills else KILLED
    return signal.Signals(number).name if number in _CRASHES else None


def count_memory_kills(root: Path = Path("/")) -> int:
    """How many processes of this control group the kernel has killed for memory; 0 if it doesn't tell.

    The kernel counts a kill before the process dies of it. It counts for the whole group: if a worker is killed by hand
    after another process of its container was killed for memory, the worker seems to have been killed for memory too.

    `root` holds `proc` and `sys`.
    """
    for folder in cgroup_folders("memory", root=root):
        # Version 2 of control groups has the first file, version 1 the second. The topmost group has neither.
        text = read_text(folder / "memory.events") or read_text(folder / "memory.oom_control")
        for line in text.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
