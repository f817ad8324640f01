"""The version of a file, by which the folder source tells a rewritten file from the one that was sent."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
# On these file systems the kernel reports every change, and a file keeps its inode number. On a network share the
# kernel doesn't report the changes of other machines. FAT and some FUSE file systems may give a file another inode
# number later.
_LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "zfs", "bcachefs", "tmpfs", "ramfs", "overlay"}
)
# SQLite's largest integer. Inode numbers may be larger, and so may a wrong time: in nanoseconds, this is the year 2262.
_LARGEST_INT = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class FileVersion:
    """Size, time of modification and inode of a file. If one of them changes, the file is a new picture.

    `inode` is 0 if inodes can't be trusted. `changed_ns` is the time of the file's creation or of its last change of
    any kind, which nobody can set; it is not compared, because a rename and a new permission change it too.
    """

    size_bytes: int
    modified_ns: int
    inode: int
    changed_ns: int = field(default=0, compare=False)

    @classmethod
    def of(cls, stat: os.stat_result, *, trust_inode: bool) -> FileVersion:
        """The version that `stat` shows; without `trust_inode`, the inode doesn't count."""
        inode = stat.st_ino & _LARGEST_INT if trust_inode else 0
        modified_ns = max(-_LARGEST_INT, min(stat.st_mtime_ns, _LARGEST_INT))
        return cls(stat.st_size, modified_ns, inode, stat.st_ctime_ns)

    def is_of(self, stat: os.stat_result) -> bool:
        """Whether `stat` shows this version."""
        return self == FileVersion.of(stat, trust_inode=self.inode != 0)

    def is_restored(self, former: FileVersion) -> bool:
        """Whether this version differs from a former one only in its time, which is earlier.

        Programs such as `scp -p` and FTP's MFMT write a file, and then give it the time of its original. But it may
        also be a new picture of the same size, written after the camera's clock was set back.
        """
        same = (self.size_bytes, self.inode) == (former.size_bytes, former.inode)
        return same and self.modified_ns < former.modified_ns


@dataclass(frozen=True, slots=True)
class SentFile:
    """One version of a file; `name` is its path below the camera's folder."""

    name: str
    version: FileVersion

    @property
    def key(self) -> bytes:
        """Bytes that are different for every file and version in this folder, also for a file that was copied anew."""
        version = self.version
        numbers = f"{version.size_bytes} {version.modified_ns} {version.inode} {version.changed_ns} "
        return numbers.encode() + os.fsencode(self.name)


def is_local(folder: Path, *, mounts: Path = _MOUNTS) -> bool:
    """Whether the kernel reports every change in this folder, and inode numbers can be trusted there."""
    return filesystem_of(folder, mounts=mounts) in _LOCAL


def filesystem_of(folder: Path, *, mounts: Path = _MOUNTS) -> str:
    """The type of a folder's file system, such as `nfs4` or `ext4`; `unknown` if the kernel does not tell it."""
    target = os.fsencode(os.path.realpath(folder))
    found, kind = b"", b"unknown"
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        mount, _, filesystem = line.partition(b" - ")
        point = _unescaped(mount.split(b" ")[4])
        is_above = target == point or target.startswith(point.rstrip(b"/") + b"/")
        if is_above and len(point) >= len(found):  # a later mount on the same point hides the earlier ones
            found, kind = point, filesystem.split(b" ")[0]
    return kind.decode()


def _unescaped(point: bytes) -> bytes:
    """Decode a path: the kernel writes spaces, tabs, newlines and backslashes as octal numbers."""
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        point = point.replace(code, bytes([int(code[1:], 8)]))
    return point
