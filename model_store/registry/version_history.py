"""The file `current`: the version that a model's bare name stands for, and the versions that were current before.

One number per line: first the current version, then the earlier ones, newest first. Pure: bytes in, bytes out.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_store.registry.storage.protocol import MAX_VERSION_DIGITS
from shared.errors import BadBundle

# More than enough for rollbacks: nobody keeps more versions than this on a disk.
MOST_VERSIONS = 20


@dataclass(frozen=True)
class History:
    """`versions`: the current one, then those that were current before, newest first, without duplicates."""

    versions: tuple[int, ...] = ()

    @classmethod
    def parse(cls, data: bytes | None, *, location: str) -> History:
        """Parse the content of the file, or None if it doesn't exist. `location` names the file in the error.

        Raises:
            BadBundle: a line isn't a number.
        """
        if data is None:
            return cls()
        text = data.decode(errors="replace")
        lines = text.split()
        if not lines or not all(
            line.isascii() and line.isdigit() and len(line) <= MAX_VERSION_DIGITS for line in lines
        ):
            raise BadBundle(f"{location} holds {text[:40]!r}, but should hold the numbers of versions: correct it.")
        return cls(tuple(int(line) for line in lines))

    def dump(self) -> bytes:
        """The file's content."""
        return "".join(f"{version}\n" for version in self.versions).encode()

    @property
    def current(self) -> int | None:
        """The current version; None before the first promotion."""
        return self.versions[0] if self.versions else None

    def after_promotion(self, version: int) -> History:
        """The history after a promotion: `version` is current, and the previous current version comes next."""
        return History((version, *(other for other in self.versions if other != version))[:MOST_VERSIONS])

    def after_rollback(self, version: int) -> History:
        """The history after a rollback. It starts with `version`, so that the next rollback goes further back."""
        return History(self.versions[self.versions.index(version) :])
