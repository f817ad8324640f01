"""What the store needs of the place where it is kept: a local folder, or objects behind a URL.

Two implementations, `storage_local` and `storage_fsspec`. All of the store's logic is in `store`; here are
only the names of files and what an operation promises. Paths in arguments are relative to a model's
folder: `current`, `000003/manifest.json`.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from model_store.runtime.scratch import reason
from shared.errors import StoreUnavailable

STAGING_PREFIX = ".staging-"  # being made, or left over by a writer that died; readers ignore it
TRASH_PREFIX = ".trash-"  # being deleted

_VERSION_FOLDER = re.compile(r"[0-9]{6,}")


class Writer(Protocol):
    """Changes one model. There is one at a time: `Storage.writing` hands it out and waits for others."""

    def write(self, file: str, data: bytes) -> None:
        """Replace a small file: whoever reads it finds the old content or the new one, also after a crash."""

    def delete(self, file: str) -> None:
        """Delete a small file, which need not be there."""

    def staging(self) -> AbstractContextManager[Path]:
        """An empty local folder to make a bundle in; gone afterwards unless it was placed."""

    def place(self, staging: Path, version: int) -> None:
        """Make a staged bundle visible as `version`: wholly or not at all, also after a crash."""

    def discard(self, version: int) -> None:
        """Make a version invisible at once, then delete it."""


class Storage(Protocol):
    """Reads models. Every method may raise StoreUnavailable where the place itself can't be read."""

    @property
    def where(self) -> str:
        """The place, for messages; passwords masked."""

    @property
    def root(self) -> Path:
        """The local folder below which `fetched` gives versions: the store itself, or its cache."""

    def models(self) -> list[str]:
        """Every name that has a folder, sorted, whatever is in it."""

    def numbers(self, name: str) -> list[int]:
        """Every number that has a version's folder, complete or not, oldest first."""

    def files(self, name: str, version: int) -> frozenset[str]:
        """The files of a version that are there; empty when it isn't."""

    def read(self, name: str, file: str) -> bytes | None:
        """A small file; None when it isn't there."""

    def fetched(self, name: str, version: int) -> Path:
        """A local folder with the files of a complete version, which stays there until the version is deleted.

        Raises:
            NotFound: it was deleted meanwhile.
            BadBundle: it can't be fetched unchanged.
        """

    def fresh(self, name: str, version: int) -> AbstractContextManager[Path]:
        """A local folder with the files as they are in the store now, complete or not: for checking them."""

    def writing(self, name: str) -> AbstractContextManager[Writer]:
        """Wait until nobody else changes the model, clear away what dead writers left, and hold others off."""


def folder_name(version: int) -> str:
    """A version's folder."""
    return f"{version:06d}"


def version_number(folder: str) -> int | None:
    """The version whose folder this is by its name; None for any other name."""
    return int(folder) if _VERSION_FOLDER.fullmatch(folder) else None


def away(where: str, error: BaseException) -> StoreUnavailable:
    """The error for a place that can't be read or written."""
    return StoreUnavailable(
        f"the model store {where} can't be read or written: {reason(error)}. "
        "Check that it is reachable, that you may, and that the disk isn't full."
    )
