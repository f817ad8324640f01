"""A map of file names to versions, and back. Used by the journal and the file memory."""

from __future__ import annotations

from collections.abc import Iterator

from producer.sources.file_version import FileVersion, SentFile


class FileVersions:
    """One version for each name; iterates over the names, the oldest entry first."""

    def __init__(self) -> None:
        self._versions: dict[str, FileVersion] = {}
        self._names: dict[FileVersion, str] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._versions)

    def __len__(self) -> int:
        return len(self._versions)

    def __contains__(self, name: object) -> bool:
        return name in self._versions

    def get(self, name: str) -> FileVersion | None:
        """The version of this name."""
        return self._versions.get(name)

    def name_of(self, version: FileVersion) -> str | None:
        """The name that had this version last, if inodes count in it: otherwise different files may have it."""
        return self._names.get(version) if version.inode else None

    def put(self, file: SentFile) -> None:
        """Set a name's version, as the latest entry."""
        self.pop(file.name)
        self._versions[file.name] = file.version
        self._names[file.version] = file.name

    def pop(self, name: str) -> FileVersion | None:
        """Remove a name; returns its version."""
        version = self._versions.pop(name, None)
        if version is not None and self._names.get(version) == name:
            del self._names[version]
        return version
