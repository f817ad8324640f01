"""Handover: what a parent process tells the worker that it starts, and the worker's end of their lifeline.

It is passed in environment variables, which the worker takes out of its environment: they are neither settings nor
meant for processes that the worker starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import MutableMapping
from dataclasses import dataclass

from worker.parent.causes import KILLED

NAME = "SORTLINE_WORKER_NAME"
PARENT = "SORTLINE_WORKER_PARENT"  # <pid>:<file descriptor of the worker's end of the lifeline>
PREDECESSOR = "SORTLINE_WORKER_PREDECESSOR"  # <cause>:<time of death>:<name>

# The signal with which a worker tells its parent that it has begun to work.
WORKS = signal.SIGUSR1

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Predecessor:
    """The worker that died and whose place this one takes."""

    worker: str
    cause: str  # the name of a crash's signal, or one of the constants in worker/parent/causes.py
    died_at: float  # by time.monotonic(), which is the same in all processes of a host

    @property
    def is_explained(self) -> bool:
        """Whether the cause of its death is known. If it held one job, then that job is to blame."""
        return self.cause != KILLED

    def describe(self) -> str:
        """All fields as one text, for `parse`."""
        return f"{self.cause}:{self.died_at}:{self.worker}"

    @classmethod
    def parse(cls, text: str) -> Predecessor:
        """The inverse of `describe`."""
        cause, died_at, worker = text.split(":", 2)
        return cls(worker, cause, float(died_at))


class ParentLink:
    """A worker's end of the lifeline, a pipe from its parent.

    Each byte is a request to stop. The pipe closes when the parent ends.
    """

    def __init__(self, *, pid: int, lifeline: int) -> None:
        self.pid = pid
        self.stop_requests = 0
        self._lifeline = lifeline

    def listen(self) -> None:
        """Count requests to stop from now on, and kill this process when the parent ends."""
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def report_working(self) -> None:
        """Tell the parent that the worker has begun to work: if it dies now, that is not because it can't start."""
        os.kill(self.pid, WORKS)

    def _listen(self) -> None:
        while os.read(self._lifeline, 1):
            self.stop_requests += 1
        # The parent has ended. On Linux the kernel has already killed this process (`end_with_parent`).
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Handover:
    """What a worker is told by its parent."""

    name: str  # of the worker
    parent: ParentLink
    predecessor: Predecessor | None

    @classmethod
    def take_from(cls, environment: MutableMapping[str, str]) -> Handover | None:
        """Remove the variables from an environment. None if there are none: the worker has no parent."""
        name, parent = environment.pop(NAME, None), environment.pop(PARENT, None)
        predecessor = environment.pop(PREDECESSOR, None)
        if name is None or parent is None:
            return None
        pid, lifeline = map(int, parent.split(":"))
        link = ParentLink(pid=pid, lifeline=lifeline)
        return cls(name, link, None if predecessor is None else Predecessor.parse(predecessor))


def worker_name(*, pid: int, token: str) -> str:
    """A name that tells where the worker runs. The token makes it unique, as a container's workers all have PID 1."""
    return f"{os.uname().nodename}-{pid}-{token}"


def end_with_parent(pid: int) -> None:
    """Have the kernel kill this process, a worker, as soon as its parent ends. Called by the worker, at its very start.

    Other systems than Linux don't offer that. There the worker kills itself when the lifeline closes.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # here, so that the parent doesn't load it: it takes memory

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != pid:  # the parent ended before the call above, so the kernel sends no signal
        os.kill(os.getpid(), signal.SIGKILL)
