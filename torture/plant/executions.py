"""Records what is executed although it must not be. In the worker of the torture, and in whatever a forged job starts.

The record is a file with a line for each execution. It stays empty, or a forged job has run something.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The variable that names the record.
EXECUTIONS_VARIABLE = "TORTURE_EXECUTIONS"
# Python tells its audit hooks of these before they happen (docs.python.org/3/library/audit_events.html). A worker never
# does any of them.
WATCHED = frozenset({"os.system", "os.exec", "os.posix_spawn", "pickle.find_class"})
# Modules that forged jobs name, and that nothing in a worker needs.
WATCHED_IMPORTS = frozenset({"torture.plant.tripwire", "pty", "pydoc", "cProfile"})


def record(text: str) -> None:
    """Add a line to the record, if there is one."""
    if path := os.environ.get(EXECUTIONS_VARIABLE):
        with Path(path).open("a") as file:
            file.write(text[:200].replace("\n", " ") + "\n")


def watch() -> None:
    """From now on, record what this process runs or imports although a worker never does. It can't be undone."""
    sys.addaudithook(_on_event)


def read_executions(path: Path) -> list[str]:
    """The lines of a record; none if nothing was executed."""
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    if event in WATCHED or _is_strange(event, arguments):
        record(f"{event} {arguments[:2]!r}")


def _is_strange(event: str, arguments: tuple[object, ...]) -> bool:
    """Whether it is the import of a watched module, or the start of a program other than our own interpreter."""
    if event == "import":
        return arguments[0] in WATCHED_IMPORTS
    return event == "subprocess.Popen" and arguments[0] != sys.executable
