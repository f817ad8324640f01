"""The model store: published versions of models, each complete or absent, and which of them is current.

`reader` has the operations that read a store, this module those that change it. Any number of processes may read at any
time. Each model has one writer at a time; others wait. `storage` keeps the files, in a folder or behind a URL.
`open_store` opens the store that the settings name. A model's folder holds

    current        the version that `<name>` means, and those that were current before: `version_history`
    canary.json    the version that is being tried, if there is one: `canary`
    canary-ended.json  the canary that ended last: `ended_canary`
    000003/        one bundle
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from model_store.bundle.file_reading import open_bundle_file
from model_store.bundle.files import Bundle, file_digests, open_bundle
from model_store.bundle.manifest import MANIFEST_FILE, SIGNATURES_FILE
from model_store.bundle.signatures import NO_KEYS, TrustedKeys, load_trusted_keys
from model_store.bundle.signing import Signer, add_signature, useful_signatures
from model_store.registry.canary import Canary
from model_store.registry.reader import (
    CANARY_FILE,
    CURRENT_FILE,
    ENDED_CANARY_FILE,
    ReadableStore,
    checked_model_name,
    open_expected,
    parse_spec,
)
from model_store.registry.storage.protocol import Storage, Writer, folder_name, store_unavailable_error
from model_store.registry.version_history import History
from shared.errors import BadBundle, BadSetting, NotFound, StoreUnavailable
from shared.settings import Settings

__all__ = ["ModelStore", "copy_bundle", "copy_file", "file_digests", "open_store", "parse_spec"]

log = logging.getLogger("sortline.store")

# Versions that `prune` keeps by default: the current one, one to roll back to, and a spare one.
KEPT_VERSIONS = 3

_CHUNK_BYTES = 1 << 20


class TryLoading(Protocol):
    """Tries to load a bundle."""

    def __call__(self, bundle: Bundle, *, litert_only: bool) -> None:
        """Raise BadBundle if an engine can't load it; LiteRT takes a second, TensorFlow ten."""


def open_store(settings: Settings, *, try_loading: TryLoading | None = None) -> ModelStore:
    """The store that the setting `model_store` names: a folder, or an fsspec URL such as `s3://bucket/models`.

    Reads and writes no model yet, and imports fsspec only for a URL. `file://` is a plain folder.

    Args:
        settings: `model_store`, `cache_dir` and `trusted_keys` are used.
        try_loading: see `ModelStore`.

    Raises:
        BadSetting: the URL is not understood, its driver is not installed, its scheme is not encrypted and no keys are
            trusted, or `trusted_keys` can't be read.
    """
    location, keys = settings.model_store, load_trusted_keys(settings.trusted_keys)
    if "://" not in location:
        return ModelStore(settings.model_store_dir, keys=keys, try_loading=try_loading)
    if location.startswith("file://"):
        return ModelStore(Path(location.removeprefix("file://")), keys=keys, try_loading=try_loading)
    from model_store.registry.storage.object_client import check_encrypted
    from model_store.registry.storage.object_store import FsspecStorage

    if not keys:
        check_encrypted(location)
    storage = FsspecStorage.at(location, cache=settings.cache_path / "models")
    return ModelStore(storage, keys=keys, try_loading=try_loading)


class ModelStore(ReadableStore):
    """A store that can also be changed: one writer per model at a time; others wait."""

    def __init__(
        self, storage: Storage | Path, *, keys: TrustedKeys = NO_KEYS, try_loading: TryLoading | None = None
    ) -> None:
        """`try_loading` is called with each version before it is published, promoted or tried as a canary.

        It raises if no engine can load the version, and nothing changes then.
        """
        super().__init__(storage, keys=keys)
        self._try_loading = try_loading

    def publish(
        self, name: str, build: Callable[[Path, int], None], *, promote: bool = True, litert_only: bool = False
    ) -> Path:
        """Publish the next version of a model and make it current.

        If the process is killed at any point, the store has either the old state or the new version, which may not be
        current yet. The next writer cleans up after a dead one.

        Args:
            name: of the model.
            build: called with an empty folder and the version's number; writes every file of the bundle there,
                `manifest.json` last. `publish` fills in the manifest's `parent` afterwards: only here it is certain
                which version is current, because no other process can promote one meanwhile.
            promote: False leaves `current` as it is.
            litert_only: `try_loading` leaves the SavedModel out: whoever publishes it has just run it.

        Returns:
            the published folder; for a remote store its copy in the cache, read back from the store.

        Raises:
            BadBundle: what `build` wrote is not a bundle of this name and version, or can't be loaded; nothing is
                published.
            StoreUnavailable: the store can't be read or written, e.g. because the disk is full; nothing is published.
            BadSetting: the store is a URL, and the scratch folder has no space left.
            Any error of `build`; nothing is published.
        """
        if promote:
            self._must_need_no_signature(name)
        with self._writing(name) as writer:
            history = self.history(name)
            # The history counts too, because the number of a deleted version must not be used again.
            version = max([*history.versions, *self.version_numbers(name)], default=0) + 1
            with writer.staging() as staging:
                build(staging, version)
                self._try(_with_parent(staging, name, version, parent=history.current), litert_only=litert_only)
                writer.place(staging, version)
            with self._discarding(writer, name, version):
                path = self.storage.fetch(name, version)
                if promote:
                    self._set_current(writer, name, history.after_promotion(version))
        return path

    def check_writable(self, name: str) -> None:
        """Raise if a version of the model can't be published. Call this before long work, such as a training.

        Raises:
            BadSetting: the name can't be a model's name.
            StoreUnavailable: the store can't be written to.
        """
        with self._writing(name) as writer, writer.staging():
            pass

    def promote(self, name: str, version: int) -> None:
        """Make a version current, after checking every byte of it. Ends a canary of that version.

        Raises:
            NotFound: there is no such version.
            BadBundle: it is incomplete or was changed; the current version stays current.
        """
        self._must_exist(name)
        with self._writing(name) as writer:
            with self.checked(name, version) as bundle:
                self._try(bundle, litert_only=True)
            self._set_current(writer, name, self.history(name).after_promotion(version))

    def rollback(self, name: str) -> int:
        """Go back to the newest earlier version of the history that is still unchanged.

        The version that was current leaves the history, so that a second rollback goes further back. To undo a
        rollback, promote that version again.

        Returns:
            the version that is current now.

        Raises:
            NotFound: there is no version to go back to.
        """
        self._must_exist(name)
        with self._writing(name) as writer:
            history = self.history(name)
            target = self._rollback_target(name, history)
            if target is None:
                raise NotFound(
                    f"model {name!r} in {self.location} has no earlier version that is complete and unchanged; "
                    f"{history.current or 'none'} is current. Promote another one: see `sortline models list`."
                )
            self._set_current(writer, name, history.after_rollback(target))
        return target

    def prune(self, name: str, keep: int = KEPT_VERSIONS, *, dry_run: bool = False) -> list[int]:
        """Delete old versions: all but the newest `keep`, the current one, the target of a rollback, and a canary.

        Incomplete versions stay, because somebody may be copying one in. A worker that has a deleted version open keeps
        serving it.

        Args:
            name: of the model.
            keep: at least 1; the newest version always stays, so that its number is not used again.
            dry_run: delete nothing.

        Returns:
            the versions that were deleted, or would be, oldest first.
        """
        if keep < 1:
            raise BadSetting(f"keep = {keep}: keep at least one version.")
        self._must_exist(name)
        if dry_run:
            return self._prunable(name, keep)
        with self._writing(name) as writer:
            versions = self._prunable(name, keep)
            for version in versions:
                writer.discard(version)
        return versions

    def set_canary(self, name: str, canary: Canary) -> None:
        """Try a version on a share of the images; replaces the existing canary, if there is one.

        Raises:
            NotFound: there is no such version, or no current version to compare it with.
            BadBundle: it is incomplete or was changed.
            BadSetting: it is the current version.
        """
        self._must_exist(name)
        with self._writing(name) as writer:
            if canary.version == self.current(name):
                raise BadSetting(f"{name}@{canary.version} is the current version already: try another.")
            with self.checked(name, canary.version) as bundle:
                self._try(bundle, litert_only=True)
            writer.write(CANARY_FILE, canary.model_dump_json(indent=2).encode())

    def clear_canary(self, name: str, *, only: Canary | None = None) -> bool:
        """Remove the canary; with `only`, only if it is still this one. Returns whether one was removed."""
        self._must_exist(name)
        with self._writing(name) as writer:
            try:
                data = self.storage.read(name, CANARY_FILE)
            except BadBundle as error:  # it can still be removed
                log.warning("%s", error)
                data = b""
            if data is None:
                return False
            if only is not None and self.canary_intent(name) != only:
                return False
            self._end_canary(writer, name, data)
        return True

    def sign(self, name: str, version: int, signer: Signer) -> None:
        """Sign a version, after checking every byte of it; replaces an earlier signature of the same key.

        Signatures that fit another manifest are dropped, so that nobody who can write the store can fill up the file.

        Raises:
            NotFound: there is no such version.
            BadBundle: it is incomplete or was changed.
            BadSetting: it has too many signatures already.
        """
        self._must_exist(name)
        with self._writing(name) as writer:
            self._must_have(name, version)
            with self.storage.fresh_copy(name, version) as folder:
                bundle = open_expected(folder, name, version)
            signature = signer.sign(bundle.manifest, bundle.manifest_bytes)
            others = useful_signatures(
                self.signatures(name, version), bundle.manifest, bundle.manifest_bytes, keys=self.keys
            )
            signed = add_signature(others, signature)
            writer.write(f"{folder_name(version)}/{SIGNATURES_FILE}", signed)

    def _try(self, bundle: Bundle, *, litert_only: bool) -> None:
        if self._try_loading is not None:
            self._try_loading(bundle, litert_only=litert_only)

    def _end_canary(self, writer: Writer, name: str, data: bytes) -> None:
        """Remove the canary, and keep its file's bytes as the record of the one that ended last."""
        writer.delete(CANARY_FILE)  # first, because this also works on a full disk
        try:
            writer.write(ENDED_CANARY_FILE, data)
        except (OSError, StoreUnavailable) as error:
            log.warning("the record of the ended canary of %s can't be written: %s", name, error)

    def _set_current(self, writer: Writer, name: str, history: History) -> None:
        """Write the file `current`, and end a canary of the version that is now current."""
        # A promotion that was killed may have left a canary of the version that has been current until now. Remove that
        # canary, or it would become active.
        self._end_canary_of(self.pointer(name), writer, name)
        writer.write(CURRENT_FILE, history.dump())
        self._end_canary_of(history.current, writer, name)

    def _end_canary_of(self, version: int | None, writer: Writer, name: str) -> None:
        ended = self.ended_canary(name)
        if ended is not None and ended.version == version:
            writer.delete(ENDED_CANARY_FILE)  # it says nothing about what the version does as the current one
        try:
            canary = self.canary_intent(name)
        except BadBundle as error:  # no worker can act on it, and it must not prevent a rollback
            log.warning("%s", error)
            return
        if canary is not None and canary.version == version:
            self._end_canary(writer, name, canary.model_dump_json(indent=2).encode())

    def _prunable(self, name: str, keep: int) -> list[int]:
        history, canary, versions = self.history(name), self.canary_intent(name), self.versions(name)
        kept = {*versions[-keep:], history.current, self._rollback_target(name, history)}
        if canary is not None:
            kept.add(canary.version)
        return [version for version in versions if version not in kept]

    def _rollback_target(self, name: str, history: History) -> int | None:
        existing = self.version_numbers(name)
        for version in history.versions[1:]:
            if version not in existing:
                continue
            try:
                self.check(name, version)
            except BadBundle as error:
                log.warning("can't roll back to %s@%d: %s", name, version, error)
                continue
            return version
        return None

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[Writer]:
        try:
            with self.storage.writing(checked_model_name(name)) as writer:
                yield writer
        except OSError as error:
            raise store_unavailable_error(self.location, error) from error

    @contextlib.contextmanager
    def _discarding(self, writer: Writer, name: str, version: int) -> Iterator[None]:
        """Discard a version that was placed, if the block fails before the version is current."""
        try:
            yield
        except BaseException:
            if self.pointer(name) != version:
                writer.discard(version)
            raise

    def _must_need_no_signature(self, name: str) -> None:
        """Raise BadSetting if a version has to be signed before it is promoted."""
        if self.keys:
            raise BadSetting(
                f"{name} can't be published and promoted at once: trusted_keys is set, and nobody can sign a version "
                "before it is published. Add --no-promote, sign it with `sortline models sign`, then promote it."
            )

    def _must_exist(self, name: str) -> None:
        """Raise NotFound for an unknown model, so that no folder is created for a misspelled name."""
        if not self.version_numbers(name):
            raise NotFound(self.not_found_message(f"model {name!r} does not exist"))


def copy_bundle(folder: Path, name: str) -> Callable[[Path, int], None]:
    """A `build` for `publish` that copies the bundle in `folder` under a new name and number.

    Raises:
        BadBundle: it is incomplete or was changed; `build` also raises this if a file can no longer be read.
    """
    bundle = open_bundle(folder)

    def build(staging: Path, version: int) -> None:
        for file in bundle.manifest.files:
            copy_file(folder / file, staging / file)
        manifest = bundle.manifest.model_copy(update={"name": name, "version": version})
        (staging / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")

    return build


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's contents for a `build`, but not its mode.

    Raises:
        BadBundle: the source can't be read.
        OSError: the target can't be written; the store translates it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        out.writelines(_chunks(source))


def _chunks(source: Path) -> Iterator[bytes]:
    try:
        with open_bundle_file(source) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise BadBundle(
            f"{source}, which is to be published, can't be read: {error.strerror}. Check that it is still there and "
            "that you may read it, then publish it again."
        ) from error


def _with_parent(staging: Path, name: str, version: int, *, parent: int | None) -> Bundle:
    """Check the bundle that was built, and write its parent, which only the store knows, into the manifest."""
    bundle = open_expected(staging, name, version)
    if bundle.manifest.parent == parent:
        return bundle
    manifest = bundle.manifest.model_copy(update={"parent": parent})
    data = manifest.model_dump_json(indent=2).encode()
    (staging / MANIFEST_FILE).write_bytes(data)
    return Bundle(staging, manifest, data)
