"""Whether a process is gone, asked of real processes: the answer must never be yes for one that may live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.worker import kit
from worker.rq.processes import Processes, ProcessId, find_processes, parse_process_id, parse_process_ids

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process is ever known to be gone")

PROC = Path("/proc")


@pytest.fixture
def processes() -> Processes:
    found = find_processes()
    assert found is not None
    return found


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A child process that runs until it is killed."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as process:
        yield process
        process.kill()


def id_of(process: subprocess.Popen[bytes]) -> ProcessId:
    """A process's id, read more simply than in the product: these processes have no spaces in their names."""
    return ProcessId(process.pid, int(stat_fields(process)[21]))


def stat_fields(process: subprocess.Popen[bytes]) -> list[str]:
    return (PROC / str(process.pid) / "stat").read_text().split()


def state(process: subprocess.Popen[bytes]) -> str:
    return stat_fields(process)[2]


def fake_proc(folder: Path, pid: int, stat: str) -> Path:
    """A /proc in which one process has this stat."""
    (folder / str(pid)).mkdir(parents=True)
    (folder / str(pid) / "stat").write_text(stat)
    return folder


def stat_text(pid: int, *, name: str, started_ticks: int) -> str:
    """The stat of a running process with one thread (field 20) and this start time (field 22)."""
    return " ".join([str(pid), f"({name})", "S", *["0"] * 16, "1", "0", str(started_ticks), *["0"] * 30])


def looking_at(proc: Path) -> Processes:
    return Processes(scope="here", own=ProcessId(os.getpid(), 1), proc=proc)


# real processes ─────────────────────────────────────────────────────────────────────────────────────


def test_a_running_process_is_not_gone(processes: Processes, child: subprocess.Popen[bytes]) -> None:
    assert not processes.is_gone(processes.own)
    assert not processes.is_gone(id_of(child))


def test_a_stopped_process_is_not_gone(processes: Processes, child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGSTOP)
    kit.wait_until(lambda: state(child) == "T", "it is stopped")
    assert not processes.is_gone(id_of(child))


def test_a_killed_process_is_gone_before_its_parent_asks(processes: Processes, child: subprocess.Popen[bytes]) -> None:
    child_id = id_of(child)
    child.kill()
    kit.wait_until(lambda: state(child) == "Z", "it is a zombie")
    assert processes.is_gone(child_id)
    child.wait()
    assert processes.is_gone(child_id)


def test_a_stopped_process_that_was_killed_is_gone(processes: Processes, child: subprocess.Popen[bytes]) -> None:
    child_id = id_of(child)
    child.send_signal(signal.SIGSTOP)
    child.kill()
    child.wait()
    assert processes.is_gone(child_id)


# A program whose first thread ends while another goes on: the system call is exit, not exit_group.
FIRST_THREAD_ENDS = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(3600,)).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


def test_a_process_whose_first_thread_has_ended_is_not_gone(processes: Processes) -> None:
    """It looks like a zombie, but its other threads go on."""
    with subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS]) as process:
        process_id = id_of(process)
        kit.wait_until(lambda: state(process) == "Z", "its first thread has ended")
        try:
            assert not processes.is_gone(process_id)
        finally:
            process.kill()
    assert processes.is_gone(process_id)


def test_a_process_whose_pid_has_been_reused_is_gone(processes: Processes, child: subprocess.Popen[bytes]) -> None:
    now_there = id_of(child)
    assert processes.is_gone(now_there._replace(started_ticks=now_there.started_ticks - 1))


def test_a_process_of_another_user_is_not_gone(monkeypatch: pytest.MonkeyPatch, processes: Processes) -> None:
    """The call is replaced, because tests may run as root, who may signal every process."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not processes.is_gone(processes.own)
    assert processes.is_gone(processes.own._replace(started_ticks=1)), "its PID has been reused"


# what can't be read ─────────────────────────────────────────────────────────────────────────────────


def test_a_hidden_process_is_not_gone(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    """/proc mounted with hidepid shows no processes of other users."""
    assert not looking_at(tmp_path).is_gone(id_of(child))


@pytest.mark.parametrize("stat", ["", "nonsense", "1 (python) S 1 1", "1 (python) " + "x " * 50])
def test_a_process_whose_stat_is_malformed_is_not_gone(
    tmp_path: Path, child: subprocess.Popen[bytes], stat: str
) -> None:
    assert not looking_at(fake_proc(tmp_path, child.pid, stat)).is_gone(id_of(child))


def test_a_name_with_spaces_and_brackets_shifts_no_field(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    stat = stat_text(child.pid, name="a) Z 1 (b", started_ticks=7)
    processes = looking_at(fake_proc(tmp_path, child.pid, stat))
    assert not processes.is_gone(ProcessId(child.pid, 7))
    assert processes.is_gone(ProcessId(child.pid, 8))


def test_a_process_that_the_kernel_says_nothing_about_is_not_gone(
    monkeypatch: pytest.MonkeyPatch, processes: Processes
) -> None:
    """A sandbox may refuse the call itself."""

    def refuse(pid: int, number: int) -> None:
        raise OSError("no such system call")

    monkeypatch.setattr(os, "kill", refuse)
    assert not processes.is_gone(processes.own._replace(started_ticks=1))


# the scope ──────────────────────────────────────────────────────────────────────────────────────────


def copy_of_proc(folder: Path) -> Path:
    """A /proc with every file that the scope is derived from, as this process sees it."""
    own = folder / str(os.getpid())
    (own / "ns").mkdir(parents=True)
    (folder / "self").symlink_to(str(os.getpid()))
    (own / "stat").write_bytes((PROC / "self/stat").read_bytes())
    for name in ("pid", "time"):
        (own / "ns" / name).touch()
    (folder / "sys/kernel/random").mkdir(parents=True)
    (folder / "sys/kernel/random/boot_id").write_text("a-boot\n")
    return folder


def new_boot(proc: Path) -> None:
    (proc / "sys/kernel/random/boot_id").write_text("another-boot\n")


def new_namespace(name: str) -> Callable[[Path], None]:
    """A change that puts another file there. The old file stays, so that its inode is not reused."""

    def change(proc: Path) -> None:
        (proc / "self/ns" / name).rename(proc / f"old-{name}")
        (proc / "self/ns" / name).touch()

    return change


@pytest.mark.parametrize("change", [new_boot, new_namespace("pid"), new_namespace("time")])
def test_processes_that_are_not_comparable_have_different_scopes(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    proc = copy_of_proc(tmp_path)
    first, same = find_processes(proc), find_processes(proc)
    change(proc)
    other = find_processes(proc)
    assert first is not None and same is not None and other is not None
    assert first.scope == same.scope
    assert first.scope != other.scope


def test_virtual_machines_of_one_snapshot_have_different_scopes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc = copy_of_proc(tmp_path)
    first = find_processes(proc)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "another-host", "", "", "")))
    other = find_processes(proc)
    assert first is not None and other is not None
    assert first.scope != other.scope


def test_a_kernel_without_time_namespaces_is_supported(tmp_path: Path) -> None:
    proc = copy_of_proc(tmp_path)
    (proc / "self/ns/time").unlink()
    assert find_processes(proc) is not None


@pytest.mark.parametrize("missing", ["self", "self/stat", "self/ns/pid", "sys/kernel/random/boot_id"])
def test_with_an_incomplete_proc_no_process_is_known(tmp_path: Path, missing: str) -> None:
    proc = copy_of_proc(tmp_path)
    (proc / missing).unlink()
    assert find_processes(proc) is None


def test_with_the_proc_of_another_namespace_no_process_is_known(tmp_path: Path) -> None:
    """A container that sees its host's /proc finds its own PIDs there as other processes."""
    proc = copy_of_proc(tmp_path)
    (proc / "self").unlink()
    (proc / "1").symlink_to(str(os.getpid()))
    (proc / "self").symlink_to("1")
    assert find_processes(proc) is None


# as text ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_process_id_is_read_as_it_was_written(processes: Processes) -> None:
    assert parse_process_id(str(processes.own)) == processes.own


@pytest.mark.parametrize(
    "text", ["", "1", "1:", ":1", "0:1", "-1:1", "1:-1", "1:2:3", "1:2\n", " 1:2", "12345678:1", "1:" + "9" * 30, "²:1"]
)
def test_any_other_text_is_no_process_id(text: str) -> None:
    """PID 0 and below stand for groups of processes, and PIDs that the kernel can't have raise in Python."""
    assert parse_process_id(text) is None


# workers with a parent process ──────────────────────────────────────────────────────────────────────


def test_a_worker_with_a_parent_describes_both() -> None:
    processes = find_processes(parent_pid=os.getppid())
    assert processes is not None and processes.parent is not None
    assert processes.parent.pid == os.getppid()
    assert processes.describe_own() == f"{processes.own} {processes.parent}"
    assert parse_process_ids(processes.describe_own()) == [processes.own, processes.parent]
    assert parse_process_id(processes.describe_own()) is None, "an older release would take it for one process"


def test_a_worker_is_gone_when_both_it_and_its_parent_are_gone(
    processes: Processes, child: subprocess.Popen[bytes]
) -> None:
    lives, own = id_of(child), processes.own
    dead = lives._replace(started_ticks=lives.started_ticks - 1)
    assert not processes.is_worker_gone(f"{dead} {own}"), "its parent will start another worker"
    assert not processes.is_worker_gone(f"{lives} {dead}"), "the worker may still write"
    assert processes.is_worker_gone(f"{dead} {dead}")


def test_a_worker_of_an_older_release_has_no_parent(processes: Processes) -> None:
    assert not processes.is_worker_gone(str(processes.own))
    assert processes.is_worker_gone(str(processes.own._replace(started_ticks=1)))


@pytest.mark.parametrize("text", ["", " ", "1:1 ", "1:1  1:1", "1:1 nonsense", "nonsense 1:1"])
def test_a_worker_with_a_malformed_description_is_not_gone(processes: Processes, text: str) -> None:
    assert not processes.is_worker_gone(text)


def test_no_process_is_known_if_the_parent_cannot_be_seen(tmp_path: Path) -> None:
    assert find_processes(copy_of_proc(tmp_path), parent_pid=1) is None
