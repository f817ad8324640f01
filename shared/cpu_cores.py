"""How many CPU cores this process may use: what taskset and a container's CPU limit leave it.

The limit of a container (`docker --cpus`, and `limits.cpu` of Kubernetes) is a quota of Linux's cgroups.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores() -> int:
    """The number of cores that this process may use, at most those of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, cpu_limit() or cores)


def cpu_limit(root: Path = Path("/")) -> int | None:
    """The CPU quota of this process in cores, rounded up; None: there is no quota, or it can't be read.

    The smallest quota of the process's own cgroup and of those above it. In a container the topmost cgroup is the
    container's. `root` holds `proc` and `sys`.
    """
    limits = [_limit(folder) for folder in _folders(root)]
    return min((limit for limit in limits if limit is not None), default=None)


def _folders(root: Path) -> Iterator[Path]:
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one tree and names no controllers, version 1 has a tree for each.
        tree = root / ("sys/fs/cgroup/cpu" if controllers else "sys/fs/cgroup")
        own = PurePosixPath(path)
        for group in (own, *own.parents):
            yield tree / group.relative_to("/")


def _limit(folder: Path) -> int | None:
    words = _read(folder / "cpu.max").split() or [
        *_read(folder / "cpu.cfs_quota_us").split(),
        *_read(folder / "cpu.cfs_period_us").split(),
    ]
    try:
        quota_us, period_us = map(int, words)
    except ValueError:  # no such file, or `max`
        return None
    return math.ceil(quota_us / period_us) if quota_us > 0 else None  # version 1 says -1


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
