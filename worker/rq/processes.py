"""Processes: tells whether another worker on this host has certainly ended. Linux only; asks only the kernel.

A process that can't be seen may run in another container or on another host. So every answer is about the processes of
one scope: the same host since the same boot, with the same PIDs and the same clock.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("sortline.processes")

# Linux has PIDs up to 4,194,304.
_PROCESS = re.compile(r"([1-9][0-9]{0,6}):([0-9]{1,20})")


class ProcessId(NamedTuple):
    """One process, also if its PID is reused later. Written `<pid>:<started_ticks>`."""

    pid: int
    started_ticks: int  # since boot, in the kernel's clock ticks

    def __str__(self) -> str:
        return f"{self.pid}:{self.started_ticks}"


def parse_process_ids(text: str) -> list[ProcessId]:
    """The ids of a worker's process and its parent's, as `Processes.describe_own` writes them; [] for other text."""
    found = [parse_process_id(part) for part in text.split(" ")]
    return [process for process in found if process is not None] if None not in found else []


def parse_process_id(text: str) -> ProcessId | None:
    """The inverse of `str(ProcessId)`; None for any other text."""
    found = _PROCESS.fullmatch(text)
    return None if found is None else ProcessId(int(found[1]), int(found[2]))


class Processes:
    """The processes in the scope of this one."""

    def __init__(self, *, scope: str, own: ProcessId, proc: Path, parent: ProcessId | None = None) -> None:
        """`parent` starts another worker when this one dies."""
        self.scope = scope
        self.own = own
        self.parent = parent
        self._proc = proc

    def describe_own(self) -> str:
        """What other workers are told: `<pid>:<started_ticks>` of this process and of its parent.

        A release that knows of no parents can't read the two, and notices this worker's death when its leases expire.
        """
        return str(self.own) if self.parent is None else f"{self.own} {self.parent}"

    def is_worker_gone(self, description: str) -> bool:
        """Whether the worker with this description has certainly ended, and its parent too.

        While its parent lives, the parent starts another worker, which knows why this one died and takes its jobs back.
        """
        processes = parse_process_ids(description)
        return bool(processes) and all(self.is_gone(process) for process in processes)

    def is_gone(self, process: ProcessId) -> bool:
        """True only if the process has certainly ended; False if in doubt. A stopped one (SIGSTOP) has not ended."""
        try:
            os.kill(process.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it exists, and is another user's
        except OSError:
            return False
        try:
            stat = _read_stat(self._proc / str(process.pid))
        except (OSError, ValueError):  # hidden from this user (hidepid), or it has just ended: the next call tells
            return False
        return stat.started_ticks != process.started_ticks or stat.has_ended


def find_processes(proc: Path = Path("/proc"), *, parent_pid: int | None = None) -> Processes | None:
    """The processes in the scope of this one; None if /proc doesn't show them: then no worker ever counts as gone.

    `parent_pid`: the PID of the process that starts another worker when this one dies, if there is one.
    """
    try:
        if os.readlink(proc / "self") != str(os.getpid()):
            raise OSError(f"{proc} shows the processes of another namespace")
        own = ProcessId(os.getpid(), _read_stat(proc / "self").started_ticks)
        parent = None if parent_pid is None else ProcessId(parent_pid, _read_stat(proc / str(parent_pid)).started_ticks)
        return Processes(scope=_scope(proc), own=own, parent=parent, proc=proc)
    except (OSError, ValueError) as error:
        log.debug("jobs of a worker that died on this host return when their leases run out, not at once: %s", error)
        return None


def _scope(proc: Path) -> str:
    """Name the scope. It includes the host name, as virtual machines started from one snapshot share a boot id."""
    boot_id = (proc / "sys/kernel/random/boot_id").read_text().strip()
    pid_namespace = os.stat(proc / "self/ns/pid").st_ino
    try:
        time_namespace = os.stat(proc / "self/ns/time").st_ino  # each has its own boot time, and so its own start times
    except FileNotFoundError:  # Linux before 5.6 has no time namespaces
        time_namespace = 0
    return f"{boot_id}:{pid_namespace}:{time_namespace}:{os.uname().nodename}"


class _Stat(NamedTuple):
    """The fields of `/proc/<pid>/stat` that are used here."""

    has_ended: bool
    started_ticks: int


def _read_stat(folder: Path) -> _Stat:
    """Read whether a process has ended, and when it started.

    Field numbers are those of proc_pid_stat(5). A process's name, the second field, may hold spaces and brackets.

    After SIGKILL a process stays as a zombie (Z) until its parent asks for its exit status. A zombie with more than one
    thread still runs: only its first thread has ended.
    """
    fields_from_3 = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    if len(fields_from_3) < 20:
        raise ValueError(f"{folder}/stat has too few fields")
    state, threads, started_ticks = fields_from_3[0], int(fields_from_3[17]), int(fields_from_3[19])
    return _Stat(has_ended=state in (b"Z", b"X") and threads <= 1, started_ticks=started_ticks)
