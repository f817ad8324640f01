"""Run as a script: keeps one child process whose life is tied to the starter's.

    python -P child_supervisor.py COMMAND…

The starter holds the write end of this process's standard input. When that closes, because the starter
let go or was killed, the child is told to end (SIGTERM), and killed when it hasn't after GRACE_S. When
the child ends, this process ends with its exit code, 128 + N for signal N. Imports nothing of ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

# A worker that drains finishes what it holds: well below this, unless its server is away.
GRACE_S = 20.0


def main(command: list[str]) -> int:
    """Run the command; its exit code."""
    # Not SIG_IGN, which the child would inherit: it would be deaf until it has a handler of its own.
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_starter, args=(child,), daemon=True).start()
    code = child.wait()
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
