"""Finds the folders where Linux shows the limits and events of this process's control groups (cgroups).

Each container has a control group of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cgroup_folders(controller: str, *, root: Path = Path("/")) -> Iterator[Path]:
    """The folders of this process's own group and of its parent groups, for a controller such as `cpu` or `memory`.

    In a container the topmost group is the container's. A folder need not exist. `root` holds `proc` and `sys`.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one tree and names no controllers, version 1 has a tree for each.
        tree = root / (f"sys/fs/cgroup/{controller}" if controllers else "sys/fs/cgroup")
        own = PurePosixPath(path)
        for group in (own, *own.parents):
            yield tree / group.relative_to("/")


def read_text(file: Path) -> str:
    """The file's text; empty if it can't be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
