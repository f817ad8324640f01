"""What tests of every part share: patience, tools, programs and processes. The kits of the parts build on it."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

PROJECT = Path(__file__).parent.parent
BOTTLES = PROJECT / "producer" / "bottles"
# Longer than anything here takes on a busy machine: reached only when a test fails.
PATIENCE_S = 60.0
POLL_INTERVAL_S = 0.01
# Variables with which Python opens files as ASCII, as it opens them as Latin-1 or GBK in some locales of users.
ASCII_LOCALE = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def wait_until(
    condition: Callable[[], object], what: str, *, timeout_s: float = PATIENCE_S, log: Path | None = None
) -> None:
    """Wait until `condition` holds, or fail saying `what` did not happen, with what ends `log` then."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {timeout_s:.0f} s: {what}{_end_of(log)}"
        time.sleep(POLL_INTERVAL_S)


def _end_of(log: Path | None) -> str:
    return "" if log is None else f"; the log ends: {log.read_text(errors='replace')[-2000:]}"


class ManualClock:
    """Monotonic seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def missing_tool(what: str) -> NoReturn:
    """Skip, naming what is missing; in CI, where everything is installed, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def needed_tool(tool: str, *, package: str) -> str:
    """Path of a program that comes with a package of Debian. If it is missing, the test ends by `missing_tool`."""
    path = shutil.which(tool)
    if path is None:
        missing_tool(f"{tool} is not installed: apt-get install {package}")
    return path


def without_privileges() -> list[str]:
    """What to put before a command so that permissions of files hold for it, although the tests run as root."""
    if os.geteuid():
        return []
    needed_tool("setpriv", package="util-linux")
    capabilities = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        missing_tool("root may not give up its capabilities here: run the tests as another user")
    return command


def run_python(program: str, *arguments: str, exit_code: int = 0, environment: Mapping[str, str] | None = None) -> str:
    """Run a program in an interpreter of its own, in the project's folder. Returns what it prints.

    `environment` holds variables to add to this process's.
    """
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=PROJECT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == exit_code, done.stderr
    return done.stdout


def drawn_on_terminal(program: str, *, environment: Mapping[str, str]) -> bytes:
    """Run a program in an interpreter of its own. Returns what it draws on a terminal that is its standard error."""
    terminal, side = pty.openpty()
    variables = os.environ | {"TERM": "xterm"} | environment
    with subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, stderr=side, env=variables) as run:
        os.close(side)
        drawn = b""
        with contextlib.suppress(OSError):  # Linux raises EIO when the terminal's last writer has ended
            while part := os.read(terminal, 4096):
                drawn += part
    os.close(terminal)
    assert run.returncode == 0, drawn.decode()
    return drawn


def is_gone(pid: int) -> bool:
    """Whether a process has ended. Its parent may not have asked for its exit code yet."""
    return _stat(pid)[:1] in ([], ["Z"], ["X"])


def children_of(pid: int) -> list[int]:
    """The processes that this one has started and that still run, or wait for it to ask for their exit codes."""
    found = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return [other for other in found if _stat(other)[1:2] == [str(pid)]]


def command_line(pid: int) -> str:
    """Its program and arguments, separated by spaces; nothing if it is gone, or was started only just now."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def working_folder(pid: int) -> Path | None:
    """The folder that it works in; None if it is gone, or another user's."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None


def _stat(pid: int) -> list[str]:
    """State, parent, … of a process (proc_pid_stat(5), from field 3); nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
