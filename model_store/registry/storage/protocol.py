"""The storage that a model store needs: a local folder, or objects behind a URL.

It has two implementations, `local` and `object_store`. The logic of the store is in `registry.store` and
`registry.reader`; this module only defines file names and what each operation guarantees. Paths in arguments are
relative to a model's folder: `current`, `000003/manifest.json`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from model_store.runtime.scratch import describe_disk_error
from shared.errors import StoreUnavailable
from shared.masking import masked_text

STAGING_PREFIX = ".staging-"  # being written, or left behind by a dead writer; readers ignore it
TRASH_PREFIX = ".trash-"  # being deleted

MAX_VERSION_DIGITS = 18  # Python refuses to convert thousands of digits
_VERSION_FOLDER = re.compile(rf"[0-9]{{6,{MAX_VERSION_DIGITS}}}")


class Writer(Protocol):
    """Changes one model. `Storage.writing` gives a Writer to one process at a time."""

    def write(self, file: str, data: bytes) -> None:
        """Replace a small file: readers see either the old content or the new one, even after a crash."""

    def delete(self, file: str) -> None:
        """Delete a small file if it exists."""

    def staging(self) -> AbstractContextManager[Path]:
        """An empty local folder to build a bundle in; deleted afterwards unless it was placed."""

    def place(self, staging: Path, version: int) -> None:
        """Make a staged bundle visible as `version`: completely or not at all, even after a crash."""

    def discard(self, version: int) -> None:
        """Make a version invisible at once, then delete it."""


class Storage(Protocol):
    """Reads models. Every method may raise StoreUnavailable if the storage itself can't be read."""

    @property
    def location(self) -> str:
        """Folder or URL, for messages; passwords are masked."""

    @property
    def root(self) -> Path:
        """The local folder that holds the versions `fetch` returns: the store itself, or its cache."""

    def models(self) -> list[str]:
        """The name of every folder, sorted, whatever is in it."""

    def version_numbers(self, name: str) -> list[int]:
        """The numbers of all versions that have a folder, complete or not, oldest first."""

    def files(self, name: str, version: int) -> frozenset[str]:
        """The existing files of a version; empty when the version doesn't exist."""

    def read(self, name: str, file: str) -> bytes | None:
        """The content of a small file; None when it doesn't exist.

        Raises:
            BadBundle: it is not a regular file, or larger than what Sortline writes.
        """

    def fetch(self, name: str, version: int) -> Path:
        """A local folder with the files of a complete version, which stays there until the version is deleted.

        Raises:
            NotFound: the version was deleted meanwhile.
            BadBundle: the version can't be fetched unchanged.
        """

    def fresh_copy(self, name: str, version: int) -> AbstractContextManager[Path]:
        """A local folder for checking a version: its files as the store has them now, complete or not."""

    def writing(self, name: str) -> AbstractContextManager[Writer]:
        """Wait until no other writer changes the model, clean up after dead writers, and let later writers wait."""


def folder_name(version: int) -> str:
    """The name of a version's folder."""
    return f"{version:06d}"


def version_number(folder: str) -> int | None:
    """The version that has a folder of this name; None if no version has."""
    return int(folder) if _VERSION_FOLDER.fullmatch(folder) else None


def store_unavailable_error(location: str, error: BaseException, *, secrets: Sequence[str] = ()) -> StoreUnavailable:
    """The error for a store that can't be read or written; `secrets` are masked in the text of `error`."""
    return StoreUnavailable(
        f"the model store {location} can't be read or written: {masked_text(describe_disk_error(error), secrets)}. "
        "Check that it is reachable, that you have permission, and that the disk isn't full."
    )
