"""Usable cores. CPU quotas of cgroups, versions 1 and 2, are files in a folder that stands for the machine's root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared import cpu_cores
from shared.cpu_cores import cpu_limit

Files = dict[str, str]


def machine(root: Path, *, own: str, files: Files) -> Path:
    """A root whose process is in the cgroups `own`."""
    for file, text in (("proc/self/cgroup", own), *((f"sys/fs/cgroup/{name}", text) for name, text in files.items())):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a", {"b/cpu.max": "200000 100000"}, None),
    ],
)
def test_the_least_quota_from_the_process_up(tmp_path: Path, own: str, files: Files, limit: int | None) -> None:
    assert cpu_limit(machine(tmp_path, own=own, files=files)) == limit


@pytest.mark.parametrize(
    ("path", "folder", "quota", "limit"),
    [
        ("/", "cpu", "250000", 3),
        ("/docker/1f", "cpu/docker/1f", "200000", 2),
        ("/docker/1f", "cpu", "200000", 2),  # in the container: the path is the host's, the tree its own
        ("/", "cpu", "-1", None),
    ],
)
def test_version_1_has_two_files_in_a_tree_of_its_own(
    tmp_path: Path, path: str, folder: str, quota: str, limit: int | None
) -> None:
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}
    own = f"5:memory:/elsewhere\n4:cpu,cpuacct:{path}\n3:cpuset:/\n0::/"
    assert cpu_limit(machine(tmp_path, own=own, files=files)) == limit


@pytest.mark.parametrize("text", ["", "nonsense", "1", "1 2 3"])
def test_what_cant_be_read_is_no_limit(tmp_path: Path, text: str) -> None:
    assert cpu_limit(tmp_path) is None
    assert cpu_limit(machine(tmp_path, own="0::/", files={"cpu.max": text})) is None


@pytest.mark.parametrize(("limit", "expected"), [(None, 64), (2, 2), (65, 64)])
def test_a_containers_cpu_limit_bounds_the_cores(
    monkeypatch: pytest.MonkeyPatch, *, limit: int | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(cpu_cores, "cpu_limit", lambda: limit)
    assert cpu_cores.usable_cores() == expected
