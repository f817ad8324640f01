"""Versions of files, and the file systems whose inode numbers can be trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.sources.file_version import FileVersion, SentFile, filesystem_of, is_local
from tests.producer.sources.kit import write

MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:50 / ROOT/share rw,relatime shared:1 - nfs4 server:/frames rw
41 27 0:51 / ROOT/two\040words rw,relatime - cifs //server/frames rw
42 27 0:52 / ROOT/twice rw,relatime - ext4 /dev/vdb rw
43 27 0:53 / ROOT/twice rw,relatime - fuse.sshfs me@server: rw
44 40 0:54 / ROOT/share/local rw,relatime - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("folder", "kind", "local"),
    [
        ("share/a/b", "nfs4", False),
        ("share", "nfs4", False),
        ("shared", "ext4", True),
        ("two words", "cifs", False),
        ("twice", "fuse.sshfs", False),
        ("share/local", "tmpfs", True),
        ("link", "nfs4", False),
    ],
)
def test_the_innermost_mount_counts(tmp_path: Path, folder: str, kind: str, local: bool) -> None:
    root = tmp_path.resolve()
    mounts = root / "mounts"
    mounts.write_text(MOUNTS.replace("ROOT", str(root)))
    (root / "link").symlink_to("share")
    assert filesystem_of(root / folder, mounts=mounts) == kind
    assert is_local(root / folder, mounts=mounts) is local


def test_an_unknown_file_system_is_not_trusted(tmp_path: Path) -> None:
    assert filesystem_of(tmp_path, mounts=tmp_path / "nothing") == "unknown"
    assert not is_local(tmp_path, mounts=tmp_path / "nothing")


def test_the_kernel_of_this_machine_names_a_file_system() -> None:
    assert filesystem_of(Path("/proc")) == "proc"


def test_a_version_is_size_time_and_inode_if_that_can_be_trusted(tmp_path: Path) -> None:
    stat = write(tmp_path / "a.jpg").stat()
    assert FileVersion.of(stat, trust_inode=True) == FileVersion(stat.st_size, stat.st_mtime_ns, stat.st_ino)
    assert FileVersion.of(stat, trust_inode=False).inode == 0


def test_a_change_of_permissions_is_no_new_version(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg")
    versions = [FileVersion.of(path.stat(), trust_inode=trusted) for trusted in (True, False)]
    path.chmod(0o600)
    assert all(version.is_of(path.stat()) for version in versions)
    write(path, modified_ns=path.stat().st_mtime_ns)
    assert [version.is_of(path.stat()) for version in versions] == [False, True]


def test_the_keys_of_different_files_and_versions_differ() -> None:
    files = [
        SentFile(name, FileVersion(*numbers))
        for name in ("a.jpg", "2 a.jpg")
        for numbers in ((1, 2, 3), (1, 2, 32), (12, 3, 3), (1, 23, 3), (1, 2, 3, 4))
    ]
    assert len({file.key for file in files}) == len(files)
