"""The pointer's file, `current`: the version that a model's bare name stands for, and those before it.

One number a line: first the current version, then those that were current before, newest first. Pure:
bytes in, bytes out.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import BadBundle

# Enough to go back through; nobody keeps more versions than this on their disks.
MOST_VERSIONS = 20


@dataclass(frozen=True)
class History:
    """`versions`: the current one, then those that were current before, newest first, none twice."""

    versions: tuple[int, ...] = ()

    @classmethod
    def parse(cls, data: bytes | None, *, where: str) -> History:
        """What a pointer's file says; None is a file that isn't there. `where` names it in the error.

        Raises:
            BadBundle: a line isn't a number.
        """
        if data is None:
            return cls()
        text = data.decode(errors="replace")
        lines = text.split()
        if not lines or not all(line.isascii() and line.isdigit() for line in lines):
            raise BadBundle(f"{where} holds {text[:40]!r}, should be a version's number: correct it.")
        return cls(tuple(int(line) for line in lines))

    def dump(self) -> bytes:
        """The file's content."""
        return "".join(f"{version}\n" for version in self.versions).encode()

    @property
    def current(self) -> int | None:
        """The version that is current; None before the first was."""
        return self.versions[0] if self.versions else None

    def moved_to(self, version: int) -> History:
        """After a promotion: `version` is current, and what was current comes next."""
        return History((version, *(other for other in self.versions if other != version))[:MOST_VERSIONS])

    def back_to(self, version: int) -> History:
        """After a rollback: what was current since `version` is forgotten, so that the next one goes further back."""
        return History(self.versions[self.versions.index(version) :])
