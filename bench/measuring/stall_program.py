"""Run as a program, one on each core: `python -m bench.measuring.stall_program CORE`. The control of `bench steady`.

It wakes up every few milliseconds and prints a line whenever it woke up much too late: when it should have woken, and
when it did, epoch seconds. The first line says whether the system let it go before all others (`realtime`): then other
programs on the core can't hold it up, and a late awakening means that the core itself did not run, e.g. because the
host of this virtual machine ran something else. Else (`normal`) it may also mean that other programs, Sortline's own
among them, kept the core.
"""

from __future__ import annotations

import os
import sys
import time

TICK_S = 0.005
# Shorter delays are not stalls: on a busy core the scheduler's turns take some milliseconds, and delays of this size
# can't make an image miss its deadline.
STALL_S = 0.020
REALTIME, NORMAL = "realtime", "normal"


def main(core: int) -> None:
    """Watch until killed."""
    priority = _to_front(core)
    print(priority, flush=True)
    due = time.monotonic() + TICK_S
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        late_s = time.monotonic() - due
        if late_s >= STALL_S:
            woke_at = time.time()
            print(woke_at - late_s, woke_at, flush=True)
        due = max(due + TICK_S, time.monotonic())


def _to_front(core: int) -> str:
    """Stay on this core, before all other programs if the system allows it."""
    try:
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (OSError, AttributeError):  # not permitted, or not Linux
        return NORMAL
    return REALTIME


if __name__ == "__main__":
    main(int(sys.argv[1]))
