"""Run as a script: runs one child process, and ends it when the process that started this script ends.

    python -P child_supervisor.py [--remove=FOLDER] COMMAND…

The starter holds the write end of this script's standard input. The input closes when the starter closes it, or when
the starter ends for any reason, kill -9 included. The child then gets SIGTERM, and SIGKILL if it still runs after
GRACE_S. PR_SET_PDEATHSIG would do this on Linux only, and only for the thread that started the child.

When the child has ended, this script removes FOLDER and exits with the child's exit code, 128 + N for signal N.
It imports nothing from the project.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading

_REMOVE = "--remove="
# A worker that drains finishes the jobs it holds. It needs much less time than this unless Redis is unavailable.
GRACE_S = 20.0


def main(arguments: list[str]) -> int:
    """Run the command until it ends; returns its exit code."""
    # Not SIG_IGN: the child would inherit it, and would ignore SIGTERM until it installs a handler of its own.
    signal.signal(signal.SIGTERM, lambda *_: None)
    folder = arguments.pop(0).removeprefix(_REMOVE) if arguments[0].startswith(_REMOVE) else None
    try:
        child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)  # noqa: S603  # its starter chose the command
        threading.Thread(target=_end_with_starter, args=(child,), daemon=True).start()
        code = child.wait()
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _end_with_starter(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
