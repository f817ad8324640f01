"""One state of one file: what tells a rewritten file from one that was sent. Used by the folder source."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
# On these the kernel reports every change, and a file keeps its inode number. Of a network share other machines'
# changes are not reported, and FAT and some FUSE file systems make inode numbers up as they go.
_LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "zfs", "bcachefs", "tmpfs", "ramfs", "overlay"}
)
_LARGEST_INT = (1 << 63) - 1  # of SQLite; inode numbers may be larger


@dataclass(frozen=True, slots=True)
class FileVersion:
    """Size, time of modification and inode: a file in which one of them has changed is another picture."""

    size_bytes: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result, *, trust_inode: bool) -> FileVersion:
        """The version that `stat` shows; where inode numbers can't be trusted they don't count."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino & _LARGEST_INT if trust_inode else 0)

    def is_restored(self, former: FileVersion) -> bool:
        """Whether only the time differs from a former version's, and lies before it.

        So it is with programs that write a file and then give it the time of its original, as `scp -p` and FTP's MFMT.
        """
        same = (self.size_bytes, self.inode) == (former.size_bytes, former.inode)
        return same and self.modified_ns < former.modified_ns


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file in one version, by its path below the camera's folder."""

    name: str
    version: FileVersion

    @property
    def key(self) -> bytes:
        """Bytes that differ from those of any other file or version in this folder."""
        version = self.version
        numbers = f"{version.size_bytes} {version.modified_ns} {version.inode} "
        return numbers.encode() + os.fsencode(self.name)


def is_local(folder: Path, *, mounts: Path = _MOUNTS) -> bool:
    """Whether the kernel reports every change in this folder, and its inode numbers can be trusted."""
    return filesystem_of(folder, mounts=mounts) in _LOCAL


def filesystem_of(folder: Path, *, mounts: Path = _MOUNTS) -> str:
    """The type of file system that a folder is on, as `nfs4` or `ext4`; `unknown` where the kernel does not tell."""
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
        if is_above and len(point) >= len(found):  # the last mount on a point hides those before it
            found, kind = point, filesystem.split(b" ")[0]
    return kind.decode()


def _unescaped(point: bytes) -> bytes:
    """The kernel writes blanks, newlines and backslashes as octal numbers."""
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        point = point.replace(code, bytes([int(code[1:], 8)]))
    return point
