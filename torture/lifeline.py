"""Ends a process when its caller does, however that ends: the caller holds the other end of standard input."""

from __future__ import annotations

import os
import signal
import threading
import time

# A worker that drains takes a second or two; one that can't is killed.
GRACE_S = 10.0


def end_with_caller() -> None:
    """From now on: SIGTERM to this process when its standard input ends, and SIGKILL if it is still there later.

    A stopped process notices as well: its process group, being its own, is orphaned when the caller ends, and the
    kernel sends SIGHUP and SIGCONT to the stopped members of an orphaned group.
    """
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
