"""Why a worker died, found out from its wait status and from the kernel's count of out-of-memory kills."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from worker.parent.causes import HANG, HANGING, KILLED, OUT_OF_MEMORY, cause_of, count_memory_kills
from worker.parent.handover import Predecessor


def exited(code: int) -> int:
    """The wait status of a process with this exit code. (For a signal, the wait status is the signal's number.)"""
    return code << 8


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL"])
def test_a_crash_is_named_by_its_signal(name: str) -> None:
    assert cause_of(signal.Signals[name], memory_kills=0) == name
    assert cause_of(signal.Signals[name] | 0x80, memory_kills=0) == name, "a core dump sets another bit"
    assert Predecessor("w1", name, 0.0).is_explained


def test_a_kill_is_explained_only_if_the_kernel_counted_an_out_of_memory_kill() -> None:
    assert cause_of(signal.SIGKILL, memory_kills=0) == KILLED
    assert cause_of(signal.SIGKILL, memory_kills=1) == OUT_OF_MEMORY
    assert not Predecessor("w1", KILLED, 0.0).is_explained
    assert Predecessor("w1", OUT_OF_MEMORY, 0.0).is_explained


def test_every_exit_code_except_that_of_a_hang_is_final() -> None:
    assert cause_of(exited(HANGING), memory_kills=0) == HANG
    assert {cause_of(exited(code), memory_kills=1) for code in range(256) if code != HANGING} == {None}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGRTMAX])
def test_signals_that_people_send_are_final(number: int) -> None:
    assert cause_of(number, memory_kills=1) is None


@pytest.mark.parametrize(
    ("groups", "file", "text"),
    [
        ("0::/a/b\n", "sys/fs/cgroup/a/b/memory.events", "low 0\nmax 7\noom 4\noom_kill 3\noom_group_kill 0\n"),
        ("5:memory:/a\n0::/\n", "sys/fs/cgroup/memory/a/memory.oom_control", "under_oom 0\noom_kill 3\n"),
        ("0::/on/the/host\n", "sys/fs/cgroup/memory.events", "oom_kill 3\n"),
    ],
    ids=["version 2", "version 1", "a container that sees only its own group"],
)
def test_out_of_memory_kills_are_counted(tmp_path: Path, groups: str, file: str, text: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    assert count_memory_kills(tmp_path) == 0
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert count_memory_kills(tmp_path) == 3


def test_without_control_groups_no_kill_is_counted(tmp_path: Path) -> None:
    assert count_memory_kills(tmp_path) == 0
