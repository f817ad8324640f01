"""The model store behind a URL: S3 and whatever else fsspec supports. Versions are read through a local cache.

Object stores can't rename a folder. So a bundle is uploaded file by file, `manifest.json` last, and deleted with
`manifest.json` first: readers ignore a version without a manifest. A small file is written by a single put, which an
object store does completely or not at all. A file system behind a URL (sftp://) that can't promise this should be
mounted, and the setting should name the folder. `lease` decides who may write. Besides the files that `registry.store`
names, a model's folder has

    .staging-000003    version 3 is being uploaded or deleted; if the writer died, the next writer cleans up
    .claim-…           a writer has the lease on the model, or is trying to get it
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from model_store.bundle.file_reading import read_small_file
from model_store.bundle.files import MAX_BYTES, MAX_ENTRIES, open_bundle
from model_store.bundle.manifest import MANIFEST_FILE, SIGNATURES_FILE, stays_inside
from model_store.registry.storage.lease import Lease
from model_store.registry.storage.local import LocalStorage
from model_store.registry.storage.object_client import ObjectClient
from model_store.registry.storage.protocol import STAGING_PREFIX, folder_name, store_unavailable_error, version_number
from model_store.runtime.scratch import scratch_folder
from shared.errors import BadBundle, NotFound, StoreUnavailable


class _Head(NamedTuple):
    """The files of a version that tell whether a copy is up to date."""

    manifest: bytes
    signatures: bytes | None  # None: it is not signed


class FsspecStorage:
    """Models below one URL. See `protocol.Storage`."""

    def __init__(
        self, objects: ObjectClient, *, cache: LocalStorage, lease: Callable[[ObjectClient, str], Lease] = Lease
    ) -> None:
        """`cache` must hold this store's versions only; `lease` creates the lease on a model's folder."""
        self._objects = objects
        self._cache = cache
        self._lease = lease

    @classmethod
    def at(cls, url: str, *, cache: Path) -> FsspecStorage:
        """The store at an fsspec URL, cached in a folder of its own below `cache`.

        Raises:
            BadSetting: the URL isn't understood, or its driver is not installed.
        """
        objects = ObjectClient.at(url)
        digest = hashlib.sha256(objects.location.encode()).hexdigest()
        return cls(objects, cache=LocalStorage(cache / digest[:16]))

    @property
    def location(self) -> str:
        """The URL."""
        return self._objects.location

    @property
    def root(self) -> Path:
        """The cache's folder."""
        return self._cache.root

    def models(self) -> list[str]:
        """See `Storage`."""
        return self._objects.folders("")

    def version_numbers(self, name: str) -> list[int]:
        """See `Storage`."""
        found = (version_number(entry) for entry in self._objects.entries(name))
        return sorted(number for number in found if number is not None)

    def files(self, name: str, version: int) -> frozenset[str]:
        """See `Storage`."""
        return frozenset(self._objects.sizes(f"{name}/{folder_name(version)}"))

    def read(self, name: str, file: str) -> bytes | None:
        """See `Storage`."""
        return self._objects.read(f"{name}/{file}")

    def fetch(self, name: str, version: int) -> Path:
        """The version's copy in the cache; fetched if it is missing, damaged, or has another manifest or signature.

        When it fetches, it also deletes cached copies of versions that are no longer in the store.
        """
        head = _Head(self._manifest(name, version), self.read(name, f"{folder_name(version)}/{SIGNATURES_FILE}"))
        path = self._cache.fetch(name, version)
        if not _is_copy(path, head):
            try:
                self._fetch_into_cache(name, version, head)
            except OSError as error:
                raise store_unavailable_error(f"{self.location}, cached in {self.root},", error) from error
        return path

    @contextlib.contextmanager
    def fresh_copy(self, name: str, version: int) -> Iterator[Path]:
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
            raise NotFound(f"model {name}@{version} is no longer in {self.location}: it was deleted meanwhile.")
        return manifest

    def _fetch_into_cache(self, name: str, version: int, head: _Head) -> None:
        kept = self.version_numbers(name)
        # The processes of this machine share the cache: one of them fetches, the others wait and then find the copy.
        with self._cache.writing(name) as cache:
            if _is_copy(self._cache.fetch(name, version), head):
                return
            with cache.staging() as staging:
                self._download(name, version, staging)
                try:
                    open_bundle(staging)
                except BadBundle as error:
                    self._manifest(name, version)  # raises NotFound if the reason is that the version was deleted
                    raise BadBundle(f"{name}@{version} as fetched from {self.location}: {error}") from error
                if version in self._cache.version_numbers(name):
                    cache.discard(version)
                cache.place(staging, version)
            for old in set(self._cache.version_numbers(name)).difference(kept, {version}):
                cache.discard(old)

    def _download(self, name: str, version: int, folder: Path) -> None:
        source = f"{name}/{folder_name(version)}"
        sizes = self._objects.sizes(source)
        if sum(sizes.values()) > MAX_BYTES or len(sizes) > MAX_ENTRIES:
            raise BadBundle(
                f"{self.location}/{source} has {sum(sizes.values()):,} bytes in {len(sizes):,} files, more than any "
                "bundle: delete it."
            )
        for file in sizes:
            if not stays_inside(file):
                raise BadBundle(
                    f"{self.location}/{source} holds {file!r}, which can't be the name of a file: delete it."
                )
            local = folder / file
            local.parent.mkdir(parents=True, exist_ok=True)
            self._objects.download(f"{source}/{file}", local)


class FsspecWriter:
    """Changes one model while its lease lasts. See `protocol.Writer`.

    Raises StoreUnavailable, and BadSetting if the scratch folder for new versions has no space left.
    """

    def __init__(self, objects: ObjectClient, name: str, lease: Lease) -> None:
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
        self._write_marker(version)
        try:
            for file in (*sorted(files - {MANIFEST_FILE}), MANIFEST_FILE):
                self._lease.check()
                self._objects.upload(staging / file, f"{self._name}/{folder}/{file}")
        except BaseException:
            with contextlib.suppress(StoreUnavailable):  # if this fails, the next writer cleans up
                self._delete_version(version)
            raise
        self._delete_marker(version)

    def discard(self, version: int) -> None:
        """See `Writer`."""
        self._write_marker(version)
        self._delete_version(version)

    def clear_leftovers(self) -> None:
        """Clean up after a writer that died during an upload or a deletion.

        Versions that it left without a manifest are deleted; versions with a manifest are complete, and stay.
        """
        for entry in self._objects.entries(self._name):
            version = version_number(entry.removeprefix(STAGING_PREFIX)) if entry.startswith(STAGING_PREFIX) else None
            if version is None:
                continue
            if self._objects.read(f"{self._name}/{folder_name(version)}/{MANIFEST_FILE}") is None:
                self._delete_version(version)
            else:
                self._delete_marker(version)

    def _delete_version(self, version: int) -> None:
        self._lease.check()
        folder = f"{self._name}/{folder_name(version)}"
        self._objects.delete(f"{folder}/{MANIFEST_FILE}")
        self._objects.delete_folder(folder)
        self._delete_marker(version)

    def _write_marker(self, version: int) -> None:
        self.write(f"{STAGING_PREFIX}{folder_name(version)}", b"uploaded or deleted\n")

    def _delete_marker(self, version: int) -> None:
        self.delete(f"{STAGING_PREFIX}{folder_name(version)}")


def _is_copy(path: Path, head: _Head) -> bool:
    """Whether a folder holds an unchanged copy of the version with this head."""
    try:
        signatures = read_small_file(path / SIGNATURES_FILE) if (path / SIGNATURES_FILE).exists() else None
        found = _Head(read_small_file(path / MANIFEST_FILE), signatures)
        return found == head and bool(open_bundle(path))
    except (OSError, BadBundle):
        return False
