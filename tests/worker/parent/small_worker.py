"""A worker that does nothing, started by the same parent process as a real worker: a process for tests.

    python -m tests.worker.parent.small_worker FILE [OPTION]

Each worker adds a line to FILE that says what its parent handed over to it. Then it waits until it has been asked twice
to stop, and ends with exit code 10. If OPTION is a number, the first worker ends at once with that exit code.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from worker.parent import handover, process

PR_SET_CHILD_SUBREAPER = 36
TWICE = 10


def main() -> int:
    file, option = sys.argv[1], "".join(sys.argv[2:])
    if option == "without-prctl":
        handover.end_with_parent = lambda pid: None  # type: ignore[assignment]
    if option == "adopts-orphans":  # as PID 1 of a container does
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if option == "long-waits":
        process.FIRST_WAIT_S = 3600.0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    process.start_worker()
    signal.alarm(600)  # so that no process stays behind when a test fails
    own = handover.Handover.take_from(os.environ)
    assert own is not None
    if option != "reads-nothing":
        own.parent.listen()
    if option == "works-as-third" and Path(file).exists() and Path(file).read_text().count('"pid"') == 2:
        own.parent.report_working()
    if option == "adopts-orphans" and os.fork() == 0:
        if (orphan := os.fork()) == 0:
            time.sleep(0.2)
        else:
            _tell(file, {"orphan": orphan})
        os._exit(0)
    told: dict[str, object] = {"pid": os.getpid(), "name": own.name, "parent": own.parent.pid, "environment": _ours()}
    if own.predecessor is not None:
        told |= {"predecessor": own.predecessor.worker, "cause": own.predecessor.cause}
    _tell(file, told)
    if option.isdecimal() and own.predecessor is None:
        return int(option)
    return _wait(own.parent, file)


def _tell(file: str, what: dict[str, object]) -> None:
    with open(file, "a") as output:
        output.write(json.dumps(what) + "\n")


def _ours() -> list[str]:
    return [name for name in os.environ if name.startswith("SORTLINE_WORKER")]


def _wait(parent: handover.ParentLink, file: str) -> int:
    told = 0
    while told < 2:
        if parent.stop_requests > told:
            told += 1
            _tell(file, {"told": told})
        time.sleep(0.01)
    return TWICE


if __name__ == "__main__":
    sys.exit(main())
