"""Ends a process when its caller ends, in whatever way: the caller holds the other end of its standard input."""

from __future__ import annotations

import os
import signal
import threading
import time

# A worker drains in a second or two. One that can't is killed after this time.
GRACE_S = 10.0


def end_with_caller() -> None:
    """From now on this process gets SIGTERM when its standard input ends, and SIGKILL if it is still there later.

    A stopped process (SIGSTOP) ends too. It has a process group of its own, which is orphaned when the caller ends; the
    kernel then sends SIGHUP and SIGCONT to its stopped members.
    """
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
