"""The parent process of a worker, with a worker that does nothing: real processes, signals and pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit import PATIENCE_S, PROJECT, is_gone, run_python, wait_until
from tests.worker.parent.small_worker import TWICE
from worker.parent.causes import HANG, HANGING, KILLED

CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")


class Worker:
    """The small worker, and the parent above it."""

    def __init__(self, folder: Path, option: str, variables: dict[str, str]) -> None:
        self._file = folder / "told"
        self._file.touch()
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.parent = subprocess.Popen(
                [sys.executable, "-m", "tests.worker.parent.small_worker", str(self._file), *option.split()],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(PROJECT), **variables},
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def told(self, key: str) -> list[dict[str, Any]]:
        """The lines that have this key."""
        return [line for line in map(json.loads, self._file.read_text().splitlines()) if key in line]

    def wait_told(self, key: str, count: int) -> list[dict[str, Any]]:
        """Wait for at least `count` lines that have this key, and return all of them."""
        wait_until(lambda: len(self.told(key)) >= count, f"{count} lines with {key}; see {self.log}")
        return self.told(key)

    def stop(self) -> int:
        """Ask the worker to stop twice; the parent's exit code."""
        before = len(self.told("told"))
        for number in (1, 2):
            self.parent.send_signal(signal.SIGTERM)
            self.wait_told("told", before + number)
        return self.parent.wait(PATIENCE_S)


@contextmanager
def running(folder: Path, option: str = "", **variables: str) -> Iterator[Worker]:
    """A worker; nothing of it is left after the block."""
    worker = Worker(folder, option, variables)
    try:
        yield worker
    finally:
        worker.parent.kill()
        worker.parent.wait()
        for line in worker.told("pid"):
            wait_until(lambda pid=line["pid"]: is_gone(pid), "the worker ends with its parent")


# restarts ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [*CRASHES, "SIGKILL"])
def test_a_worker_that_crashes_is_replaced_by_one_that_knows_of_it(tmp_path: Path, name: str) -> None:
    with running(tmp_path) as worker:
        (first,) = worker.wait_told("pid", 1)
        assert first["parent"] == worker.parent.pid
        assert "predecessor" not in first
        os.kill(first["pid"], signal.Signals[name])
        _, second = worker.wait_told("pid", 2)
        assert (second["predecessor"], second["cause"]) == (first["name"], KILLED if name == "SIGKILL" else name)
        assert second["parent"] == worker.parent.pid
        assert second["name"] != first["name"]
        assert second["environment"] == [], "a process that the worker starts would inherit the handover"
        assert f"worker {first['name']}" in worker.log.read_text()
        assert name in worker.log.read_text()
        assert worker.stop() == TWICE


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, str(HANGING)) as worker:
        first, second = worker.wait_told("pid", 2)
        assert (second["predecessor"], second["cause"]) == (first["name"], HANG)
        assert worker.stop() == TWICE


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_any_other_exit_code_is_final(tmp_path: Path, code: int) -> None:
    with running(tmp_path, str(code)) as worker:
        assert worker.parent.wait(PATIENCE_S) == code
        assert len(worker.told("pid")) == 1
        assert worker.log.read_text() == ""


def test_a_signal_that_does_not_mean_a_crash_is_final(tmp_path: Path) -> None:
    with running(tmp_path) as worker:
        (first,) = worker.wait_told("pid", 1)
        os.kill(first["pid"], signal.SIGTERM)
        assert worker.parent.wait(PATIENCE_S) == -signal.SIGTERM


def test_waits_grow_from_restart_to_restart(tmp_path: Path) -> None:
    """This checks the waits that the log announces, not how long the parent really waits."""
    with running(tmp_path, SORTLINE_LOG_FORMAT="json") as worker:
        for number in range(1, 4):
            os.kill(worker.wait_told("pid", number)[-1]["pid"], signal.SIGSEGV)
        workers = worker.wait_told("pid", 4)
        lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
        assert [line["worker"] for line in lines] == [each["name"] for each in workers[:3]]
        assert {line["cause"] for line in lines} == {"SIGSEGV"}
        assert [line["wait_s"] for line in lines] == [0.1, 0.2, 0.4]


def test_the_wait_is_short_again_after_a_worker_that_has_worked(tmp_path: Path) -> None:
    with running(tmp_path, "works-as-third", SORTLINE_LOG_FORMAT="json") as worker:
        for number in range(1, 5):
            os.kill(worker.wait_told("pid", number)[-1]["pid"], signal.SIGSEGV)
        worker.wait_told("pid", 5)
        lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
        assert [line["wait_s"] for line in lines] == [0.1, 0.2, 0.1, 0.2]


# requests to stop ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_each_signal_is_passed_on_once(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as worker:
        worker.wait_told("pid", 1)
        worker.parent.send_signal(number)
        worker.wait_told("told", 1)
        worker.parent.send_signal(number)
        assert worker.parent.wait(PATIENCE_S) == TWICE
        assert worker.log.read_text() == ""


def test_a_worker_that_crashes_after_it_was_told_to_stop_is_not_replaced(tmp_path: Path) -> None:
    with running(tmp_path) as worker:
        (first,) = worker.wait_told("pid", 1)
        worker.parent.send_signal(signal.SIGTERM)
        worker.wait_told("told", 1)
        os.kill(first["pid"], signal.SIGSEGV)
        assert worker.parent.wait(PATIENCE_S) == -signal.SIGSEGV
        assert len(worker.told("pid")) == 1
        assert worker.log.read_text() == "", "the parent announced another worker"


def test_a_parent_that_is_told_to_stop_between_two_workers_ends(tmp_path: Path) -> None:
    with running(tmp_path, "long-waits") as worker:
        (first,) = worker.wait_told("pid", 1)
        os.kill(first["pid"], signal.SIGSEGV)
        wait_until(
            lambda: "another one takes its place" in worker.log.read_text(),
            "the parent waits before it starts another worker",
        )
        worker.parent.send_signal(signal.SIGTERM)
        assert worker.parent.wait(PATIENCE_S) == -signal.SIGSEGV
        assert len(worker.told("pid")) == 1


# ends ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("option", ["", "without-prctl"])
def test_a_worker_dies_with_its_parent(tmp_path: Path, option: str) -> None:
    with running(tmp_path, option) as worker:
        (first,) = worker.wait_told("pid", 1)
        worker.parent.kill()
        worker.parent.wait()
        wait_until(lambda: is_gone(first["pid"]), "the worker ends with its parent")


def test_a_worker_that_reads_nothing_dies_with_its_parent(tmp_path: Path) -> None:
    """A real worker may be inside native code that holds the GIL, so that no other thread runs."""
    with running(tmp_path, "reads-nothing") as worker:
        (first,) = worker.wait_told("pid", 1)
        worker.parent.kill()
        worker.parent.wait()
        wait_until(lambda: is_gone(first["pid"]), "the worker ends with its parent")


def test_a_worker_dies_if_its_parent_has_already_ended() -> None:
    program = "from worker.parent.handover import end_with_parent; end_with_parent(2); print('lives')"
    assert run_python(program, exit_code=-signal.SIGKILL) == ""


def test_orphans_are_reaped(tmp_path: Path) -> None:
    """As PID 1 of a container the parent gets every process whose own parent has ended."""
    with running(tmp_path, "adopts-orphans") as worker:
        (orphan,) = worker.wait_told("orphan", 1)
        wait_until(lambda: not Path(f"/proc/{orphan['orphan']}").exists(), "no zombie is left")
        assert worker.stop() == TWICE


def test_the_parent_loads_nothing_but_the_standard_library() -> None:
    program = (
        "import sys; before = set(sys.modules); import sortline.__main__, worker.parent.process\n"
        "print(*{name.split('.')[0] for name in sys.modules.keys() - before})"
    )
    loaded = run_python(program)
    assert set(loaded.split()) <= {*sys.stdlib_module_names, "sortline", "worker", "shared"}
    assert "logging" not in loaded, "logging must be loaded only when there is something to log"
