"""Counts the CPU cores that this process may use, within taskset and the CPU limit of its container.

The limit of a container (`docker --cpus`, or Kubernetes' `limits.cpu`) is a cgroup quota.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from shared.cgroups import cgroup_folders, read_text


def usable_cores() -> int:
    """The number of cores that this process may use; never more than the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, cpu_limit() or cores)


def cpu_limit(root: Path = Path("/")) -> int | None:
    """The CPU quota of this process in cores, rounded up; None if there is no quota or it can't be read.

    This is the smallest quota of the process's own cgroup and its parent groups. In a container the topmost cgroup is
    the container's. `root` holds `proc` and `sys`.
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
