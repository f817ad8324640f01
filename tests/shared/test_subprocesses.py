"""Children of the command line end with whoever started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.subprocesses import NOT_BEGUN, Child, name_of_ending
from tests.kit import children_of, command_line, is_gone, wait_until

NAMELESS = signal.SIGRTMIN + 1  # a real-time signal
# Starts an endless camera on a server that isn't there (it waits for it), prints its pid, and waits.
STARTER = """
import sys, time
from pathlib import Path
from shared.subprocesses import NOT_BEGUN, Child
arguments = ["camera", "--line", "l", "--source", "simulated", "--redis-url", "redis://127.0.0.1:1/0"]
child = Child(arguments, log=Path(sys.argv[1]))
print("started", flush=True)
time.sleep(600)
"""


def _children(pid: int, mark: str) -> list[int]:
    """The child processes of a process whose command line contains `mark`."""
    return [child for child in children_of(pid) if mark in command_line(child)]


def test_a_child_that_ends_by_itself_gives_its_exit_code(tmp_path: Path) -> None:
    with Child(["worker", "--max-batch", "0"], log=tmp_path / "log") as child:
        wait_until(lambda: child.poll() is not None, "the child ends")
        assert child.poll() == 2
    assert "max_batch" in (tmp_path / "log").read_text()


def test_a_child_may_run_another_module(tmp_path: Path) -> None:
    with Child(["--help"], log=tmp_path / "log", module="json.tool") as child:
        wait_until(lambda: child.poll() is not None, "the child ends")
        assert child.poll() == 0
    assert "usage" in (tmp_path / "log").read_text()


def test_a_folder_of_our_name_is_not_taken_for_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, the folder that a clone is in."""
    (tmp_path / "sortline").mkdir()
    (tmp_path / "sortline" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with Child(["--version"], log=tmp_path / "log") as child:
        wait_until(lambda: child.poll() is not None, "the child ends")
        assert child.poll() == 0
    assert (tmp_path / "log").read_text().startswith("sortline ")


@pytest.mark.slow
def test_end_stops_a_child_that_would_go_on(tmp_path: Path) -> None:
    arguments = ["camera", "--line", "ends", "--source", "simulated", "--redis-url", "redis://127.0.0.1:1/0"]
    child = Child(arguments, log=tmp_path / "log")
    wait_until(lambda: (tmp_path / "log").read_text(), "the camera says that the server is away")
    child.end()
    assert child.poll() is not None


@pytest.mark.slow
def test_children_of_a_killed_process_end_too(tmp_path: Path) -> None:
    log = tmp_path / "unlikely-name.log"
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(log)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    assert starter.stdout.readline() == "started\n"
    # Only now: for a moment after it was started a process has no command line.
    wait_until(lambda: log.read_text(), "the camera says that the server is away")
    (supervisor,) = _children(starter.pid, "child_supervisor.py")
    (camera,) = _children(supervisor, "camera")
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    wait_until(lambda: is_gone(supervisor) and is_gone(camera), "supervisor and camera end")


@pytest.mark.parametrize(
    ("returncode", "text"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (128, "exit code 128"),
        (255, "exit code 255"),
        (128 + signal.SIGKILL, "SIGKILL"),
        (-signal.SIGKILL, "SIGKILL"),
        (-NAMELESS, f"signal {NAMELESS}"),
    ],
)
def test_how_a_process_ended_is_named(returncode: int, text: str) -> None:
    assert name_of_ending(returncode) == text


# Python runs this before all else: the command line waits for a writer that never comes, and has no handler yet.
NEVER_BEGINS = """
import sys
if sys.orig_argv[1:4] == ["-P", "-m", "sortline"]:
    open({fifo!r}).read()
"""


def test_a_child_ended_before_it_began_says_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "sitecustomize.py").write_text(NEVER_BEGINS.format(fifo=str(tmp_path / "fifo")))
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = ["camera", "--line", "early", "--source", "simulated", "--redis-url", "redis://127.0.0.1:1/0"]
    child = Child(arguments, log=tmp_path / "log", variables={"PYTHONPATH": paths})
    (supervisor,) = _children(os.getpid(), "early")
    wait_until(lambda: _children(supervisor, "early"), "it was started")
    assert child.end() == NOT_BEGUN
    assert (tmp_path / "log").read_text() == "", "it had begun"
