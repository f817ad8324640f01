"""How many CPU cores this process may use: what taskset and a container's CPU limit leave it.

The limit of a container (`docker --cpus`, and `limits.cpu` of Kubernetes) is a quota of Linux's cgroups.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from shared.cgroups import cgroup_folders, read_text


def usable_cores() -> int:
    """The number of cores that this process may use, at most those of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, cpu_limit() or cores)


def cpu_limit(root: Path = Path("/")) -> int | None:
    """The CPU quota of this process in cores, rounded up; None: there is no quota, or it can't be read.

    The smallest quota of the process's own cgroup and of those above it. In a container the topmost cgroup is the
    container's. `root` holds `proc` and `sys`.
    """
    limits = [_limit(folder) for folder in cgroup_folders("cpu", root=root)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(folder: Path) -> int | None:
    words = read_text(folder / "cpu.max").split() or [
        *read_text(folder / "cpu.cfs_quota_us").split(),
        *read_text(folder / "cpu.cfs_period_us").split(),
    ]
    try:
        quota_us, period_us = map(int, words)
    except ValueError:  # no such file, or `max`
        return None
    return math.ceil(quota_us / period_us) if quota_us > 0 else None  # version 1 says -1
