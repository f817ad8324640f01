"""fsspec, cut down to the few operations that the store is built on.

Every one of them sees what was written last, by anybody: what a driver remembers of listings is thrown away
first. Whatever a driver raises comes out as StoreUnavailable; drivers raise errors of their own packages too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model_store.registry.storage.protocol import away
from shared.errors import BadSetting
from shared.settings import masked

_DRIVERS = "`pip install s3fs` for s3://, gcsfs for gs://, adlfs for az://"


class Objects:
    """Objects below one folder of an fsspec file system; paths are relative to it."""

    def __init__(self, fs: Any, root: str, *, where: str) -> None:
        """`fs` is an fsspec file system, `root` a path as it has them, `where` names both in messages."""
        self._fs = fs
        self._root = root.rstrip("/")
        self.where = where

    @classmethod
    def at(cls, url: str) -> Objects:
        """What an fsspec URL names.

        Raises:
            BadSetting: the URL isn't understood, or its driver is not installed; names what to install.
        """
        where = str(masked(url)).rstrip("/")
        try:
            from fsspec.core import url_to_fs

            fs, root = url_to_fs(url)
        except ImportError as error:
            raise BadSetting(
                f"model_store = {where} needs a driver that is not installed ({error}): {_DRIVERS}."
            ) from error
        except ValueError as error:
            raise BadSetting(
                f"model_store = {where} can't be used: {error}. Give a folder, or a URL that fsspec knows, e.g. "
                "s3://bucket/models."
            ) from error
        return cls(fs, root, where=where)

    def entries(self, folder: str) -> list[str]:
        """The names in a folder, of files and folders, sorted; empty when there is none."""
        return sorted({_name(entry) for entry in self._listed(folder)})

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder, sorted; empty when there is none."""
        return sorted({_name(entry) for entry in self._listed(folder) if entry["type"] == "directory"})

    def files(self, folder: str) -> list[str]:
        """Every file below a folder, relative to it, sorted; empty when there is none."""
        top = self._path(folder)
        with self._talking():
            self._fs.invalidate_cache()
            try:
                paths = self._fs.find(top)
            except (FileNotFoundError, NotADirectoryError):
                return []
        # Some consoles keep an empty object named `folder/` to show a folder.
        return sorted(path.removeprefix(f"{top}/") for path in paths if path != top and not path.endswith("/"))

    def read(self, file: str) -> bytes | None:
        """An object; None when it isn't there."""
        with self._talking():
            try:
                return bytes(self._fs.cat_file(self._path(file)))
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None

    def put(self, file: str, data: bytes) -> None:
        """Write an object at once."""
        with self._talking():
            self._with_folder(file, lambda path: self._fs.pipe_file(path, data))

    def upload(self, local: Path, file: str) -> None:
        """Write an object from a local file."""
        with self._talking():
            self._with_folder(file, lambda path: self._fs.put_file(str(local), path))

    def download(self, file: str, local: Path) -> None:
        """Copy an object to a local file; one that isn't there any more is passed over."""
        with self._talking(), contextlib.suppress(FileNotFoundError):
            self._fs.get_file(self._path(file), str(local))

    def delete(self, file: str) -> None:
        """Delete an object, which need not be there."""
        with self._talking(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(file))

    def delete_folder(self, folder: str) -> None:
        """Delete everything below a folder, which need not be there."""
        with self._talking(), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            self._fs.rm(self._path(folder), recursive=True)

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        with self._talking():
            self._fs.invalidate_cache()
            try:
                return list(self._fs.ls(self._path(folder), detail=True))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def _with_folder(self, file: str, write: Callable[[str], object]) -> None:
        """Object stores have no folders; other file systems want them made first."""
        path = self._path(file)
        try:
            write(path)
        except FileNotFoundError:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            write(path)

    def _path(self, relative: str) -> str:
        return f"{self._root}/{relative}" if relative else self._root

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise away(self.where, error) from error


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]
