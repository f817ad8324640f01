"""The model store behind a URL: S3 and whatever else fsspec reaches. Versions are read through a local cache.

Object stores can't rename a folder. So a bundle is uploaded file by file, `manifest.json` last: without it
nobody sees the rest. A deletion begins with it. Small files are written by one put, which object stores do
wholly or not at all; a file system behind a URL (sftp://) that can't should rather be mounted, and named as a
folder. Who may write is settled by `storage_lease`. Besides what `store` names, a model's folder has

    .staging-000003    version 3 is being uploaded or deleted; left over, it tells the next writer to clear away
    .claim-…           somebody changes the model
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from model_store.bundle.files import open_bundle
from model_store.bundle.manifest import MANIFEST_FILE
from model_store.registry.storage.lease import Lease
from model_store.registry.storage.local import LocalStorage
from model_store.registry.storage.object_client import Objects
from model_store.registry.storage.protocol import STAGING_PREFIX, away, folder_name, version_number
from model_store.runtime.scratch import scratch_folder
from shared.errors import BadBundle, NotFound, StoreUnavailable


class FsspecStorage:
    """Models below one URL. See `storage.Storage`."""

    def __init__(
        self, objects: Objects, *, cache: LocalStorage, lease: Callable[[Objects, str], Lease] = Lease
    ) -> None:
        """`cache` is for this store's versions alone; `lease` gives the one on a model's folder."""
        self._objects = objects
        self._cache = cache
        self._lease = lease

    @classmethod
    def at(cls, url: str, *, cache: Path) -> FsspecStorage:
        """The store at an fsspec URL, cached in a folder of its own below `cache`.

        Raises:
            BadSetting: the URL isn't understood, or its driver is not installed.
        """
        objects = Objects.at(url)
        digest = hashlib.sha256(objects.where.encode()).hexdigest()
        return cls(objects, cache=LocalStorage(cache / digest[:16]))

    @property
    def where(self) -> str:
        """The URL."""
        return self._objects.where

    @property
    def root(self) -> Path:
        """The cache's folder."""
        return self._cache.root

    def models(self) -> list[str]:
        """See `Storage`."""
        return self._objects.folders("")

    def numbers(self, name: str) -> list[int]:
        """See `Storage`."""
        found = (version_number(entry) for entry in self._objects.entries(name))
        return sorted(number for number in found if number is not None)

    def files(self, name: str, version: int) -> frozenset[str]:
        """See `Storage`."""
        return frozenset(self._objects.files(f"{name}/{folder_name(version)}"))

    def read(self, name: str, file: str) -> bytes | None:
        """See `Storage`."""
        return self._objects.read(f"{name}/{file}")

    def fetched(self, name: str, version: int) -> Path:
        """The version's copy in the cache: fetched if it isn't there, or is damaged, or not of this manifest.

        Copies of versions that the store has no more are deleted on the way.
        """
        manifest = self._manifest(name, version)
        path = self._cache.fetched(name, version)
        if not _is_copy(path, manifest):
            try:
                self._fetch(name, version, manifest)
            except OSError as error:
                raise away(f"{self.where}, cached in {self.root},", error) from error
        return path

    @contextlib.contextmanager
    def fresh(self, name: str, version: int) -> Iterator[Path]:
        """A copy in a temporary folder."""
        with scratch_folder("sortline-check-") as folder:
            self._download(name, version, folder)
            yield folder

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[FsspecWriter]:
        """See `Storage`."""
        lease = self._lease(self._objects, name)
        with lease.held():
            writer = FsspecWriter(self._objects, name, lease)
            writer.clear_leftovers()
            yield writer

    def _manifest(self, name: str, version: int) -> bytes:
        manifest = self.read(name, f"{folder_name(version)}/{MANIFEST_FILE}")
        if manifest is None:
            raise NotFound(f"model {name}@{version} is not in {self.where} any more: it was deleted meanwhile.")
        return manifest

    def _fetch(self, name: str, version: int, manifest: bytes) -> None:
        kept = self.numbers(name)
        # The processes of this machine share the cache: one fetches, the others wait and find it there.
        with self._cache.writing(name) as cache:
            if _is_copy(self._cache.fetched(name, version), manifest):
                return
            with cache.staging() as staging:
                self._download(name, version, staging)
                try:
                    open_bundle(staging)
                except BadBundle as error:
                    self._manifest(name, version)  # raises if that is because it was deleted meanwhile
                    raise BadBundle(f"{name}@{version} as fetched from {self.where}: {error}") from error
                if version in self._cache.numbers(name):
                    cache.discard(version)
                cache.place(staging, version)
            for old in set(self._cache.numbers(name)).difference(kept, {version}):
                cache.discard(old)

    def _download(self, name: str, version: int, folder: Path) -> None:
        source = f"{name}/{folder_name(version)}"
        for file in sorted(self.files(name, version)):
            if not _is_below(file):
                raise BadBundle(f"{self.where}/{source} holds {file!r}, which can't be the name of a file: delete it.")
            local = folder / file
            local.parent.mkdir(parents=True, exist_ok=True)
            self._objects.download(f"{source}/{file}", local)


class FsspecWriter:
    """Changes one model while its lease lasts. See `storage.Writer`.

    Raises StoreUnavailable, and BadSetting where the scratch folder that a version is made in has no room.
    """

    def __init__(self, objects: Objects, name: str, lease: Lease) -> None:
        self._objects = objects
        self._name = name
        self._lease = lease

    def write(self, file: str, data: bytes) -> None:
        """See `Writer`."""
        self._lease.check()
        self._objects.put(f"{self._name}/{file}", data)

    def delete(self, file: str) -> None:
        """See `Writer`."""
        self._lease.check()
        self._objects.delete(f"{self._name}/{file}")

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """See `Writer`."""
        with scratch_folder("sortline-publish-") as folder:
            yield folder

    def place(self, staging: Path, version: int) -> None:
        """See `Writer`."""
        folder = folder_name(version)
        files = {path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()}
        self._mark(version)
        try:
            for file in (*sorted(files - {MANIFEST_FILE}), MANIFEST_FILE):
                self._lease.check()
                self._objects.upload(staging / file, f"{self._name}/{folder}/{file}")
        except BaseException:
            with contextlib.suppress(StoreUnavailable):  # else the next writer does it
                self._clear(version)
            raise
        self._unmark(version)

    def discard(self, version: int) -> None:
        """See `Writer`."""
        self._mark(version)
        self._clear(version)

    def clear_leftovers(self) -> None:
        """Delete what writers that died had begun to upload or to delete."""
        for entry in self._objects.entries(self._name):
            version = version_number(entry.removeprefix(STAGING_PREFIX)) if entry.startswith(STAGING_PREFIX) else None
            if version is None:
                continue
            if self._objects.read(f"{self._name}/{folder_name(version)}/{MANIFEST_FILE}") is None:
                self._clear(version)
            else:
                self._unmark(version)

    def _clear(self, version: int) -> None:
        self._lease.check()
        folder = f"{self._name}/{folder_name(version)}"
        self._objects.delete(f"{folder}/{MANIFEST_FILE}")
        self._objects.delete_folder(folder)
        self._unmark(version)

    def _mark(self, version: int) -> None:
        self.write(f"{STAGING_PREFIX}{folder_name(version)}", b"uploaded or deleted\n")

    def _unmark(self, version: int) -> None:
        self.delete(f"{STAGING_PREFIX}{folder_name(version)}")


def _is_copy(path: Path, manifest: bytes) -> bool:
    """Whether a folder holds, unchanged, the version whose manifest is `manifest`."""
    try:
        return (path / MANIFEST_FILE).read_bytes() == manifest and bool(open_bundle(path))
    except (OSError, BadBundle):
        return False


def _is_below(file: str) -> bool:
    """Whether a path stays below the folder that it is relative to: object stores take any name."""
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in file and str(path) == file
