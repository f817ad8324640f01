"""The few operations of fsspec that the store is built on.

Each of them sees the last write of any process, because listings that a driver cached are dropped first. Any exception
of a driver becomes a StoreUnavailable, whatever its type: drivers also raise exceptions of their own packages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from model_store.bundle.file_reading import MAX_SMALL_FILE_BYTES, too_large
from model_store.registry.storage.protocol import store_unavailable_error
from shared.errors import BadSetting
from shared.masking import masked_text, masked_url, secrets_of

_DRIVERS = "`pip install s3fs` for s3://, gcsfs for gs://, adlfs for az://"


# Anyone on the way can change what these bring. Drivers may also be told elsewhere not to encrypt.
_UNENCRYPTED = ("http", "ftp", "webhdfs", "hdfs")


def check_encrypted(url: str) -> None:
    """Refuse an fsspec URL, or a chain of them, by which anyone on the way could choose the models.

    Raises:
        BadSetting: a scheme in it is not encrypted.
    """
    for link in url.split("::"):
        scheme = link.partition("://")[0].lower()
        if scheme in _UNENCRYPTED:
            raise BadSetting(
                f"model_store = {masked_url(url)}: a model is a program, and anyone on the way can change what "
                f"{scheme}:// brings. Use s3:// or https://, or set trusted_keys, so that versions must be signed."
            )


class ObjectClient:
    """The objects below one folder of an fsspec file system; paths are relative to it."""

    def __init__(self, fs: Any, root: str, *, location: str, secrets: Sequence[str] = ()) -> None:
        """`fs` is an fsspec file system, `root` a path in it; `location` names both in messages.

        `secrets` are masked in the texts of the driver's errors.
        """
        self._fs = fs
        self._root = root.rstrip("/")
        self.location = location
        self._secrets = secrets

    @classmethod
    def at(cls, url: str) -> ObjectClient:
        """The client for an fsspec URL.

        Raises:
            BadSetting: the URL isn't understood, or its driver is not installed; the message says what to install.
            StoreUnavailable: its driver connects at once, and can't.
        """
        location, secrets = masked_url(url).rstrip("/"), secrets_of(url)
        try:
            from fsspec.core import url_to_fs

            fs, root = url_to_fs(url)
        except ImportError as error:
            raise BadSetting(
                f"model_store = {location} needs a driver that is not installed ({masked_text(str(error), secrets)}): "
                f"{_DRIVERS}."
            ) from error
        except ValueError as error:
            raise BadSetting(
                f"model_store = {location} can't be used: {masked_text(str(error), secrets)}. Give a folder, or a URL "
                "that fsspec knows, e.g. s3://bucket/models."
            ) from error
        except Exception as error:  # some drivers connect at once: ftp://, sftp://
            raise store_unavailable_error(location, error, secrets=secrets) from error
        return cls(fs, root, location=location, secrets=secrets)

    def entries(self, folder: str) -> list[str]:
        """The names of the files and folders in a folder, sorted; empty when the folder doesn't exist."""
        return sorted({_name(entry) for entry in self._list(folder)})

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder, sorted; empty when the folder doesn't exist."""
        return sorted({_name(entry) for entry in self._list(folder) if entry["type"] == "directory"})

    def sizes(self, folder: str) -> dict[str, int]:
        """The size in bytes of every file below a folder, by its path relative to it; empty without the folder."""
        top = self._path(folder)
        with self._translating_errors():
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(top, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        # Some web consoles create an empty object named `folder/` to show a folder.
        return {
            path.removeprefix(f"{top}/"): int(entry.get("size") or 0)
            for path, entry in sorted(found.items())
            if path != top and not path.endswith("/")
        }

    def read(self, file: str) -> bytes | None:
        """The content of an object; None when it doesn't exist.

        Raises:
            BadBundle: it is larger than what Sortline writes.
        """
        with self._translating_errors():
            try:
                data = bytes(self._fs.cat_file(self._path(file), start=0, end=MAX_SMALL_FILE_BYTES + 1))
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None
        if len(data) > MAX_SMALL_FILE_BYTES:
            raise too_large(f"{self.location}/{file}")
        return data

    def put(self, file: str, data: bytes) -> None:
        """Write an object in a single operation."""
        with self._translating_errors():
            self._write_making_folders(file, lambda path: self._fs.pipe_file(path, data))

    def upload(self, local: Path, file: str) -> None:
        """Write an object from a local file."""
        with self._translating_errors():
            self._write_making_folders(file, lambda path: self._fs.put_file(str(local), path))

    def download(self, file: str, local: Path) -> None:
        """Copy an object to a local file; does nothing if the object was deleted meanwhile."""
        with self._translating_errors(), contextlib.suppress(FileNotFoundError):
            self._fs.get_file(self._path(file), str(local))

    def delete(self, file: str) -> None:
        """Delete an object if it exists."""
        with self._translating_errors(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(file))

    def delete_folder(self, folder: str) -> None:
        """Delete everything below a folder, if the folder exists."""
        with self._translating_errors(), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            self._fs.rm(self._path(folder), recursive=True)

    def _list(self, folder: str) -> list[dict[str, Any]]:
        with self._translating_errors():
            self._fs.invalidate_cache()
            try:
                return list(self._fs.ls(self._path(folder), detail=True))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def _write_making_folders(self, file: str, write: Callable[[str], object]) -> None:
        """Write a file. Object stores have no folders; in other file systems the folder has to be made first."""
        path = self._path(file)
        try:
            write(path)
        except FileNotFoundError:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            write(path)

    def _path(self, relative: str) -> str:
        return f"{self._root}/{relative}" if relative else self._root

    @contextlib.contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise store_unavailable_error(self.location, error, secrets=self._secrets) from error


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]
