"""The reading side of the model store: which models and versions exist, which is current, and where their files are.

In: names as users write them, `bottles` or `bottles@3`. Out: the local folder of a bundle. Any number of processes may
read at any time. `store.ModelStore` adds the operations that change a store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from model_store.bundle.files import Bundle, open_bundle, parse_manifest
from model_store.bundle.manifest import MANIFEST_FILE, SIGNATURES_FILE, Manifest
from model_store.bundle.signatures import NO_KEYS, Signature, TrustedKeys, parse_signatures
from model_store.registry.canary import Canary
from model_store.registry.storage.local import LocalStorage
from model_store.registry.storage.protocol import MAX_VERSION_DIGITS, Storage, folder_name
from model_store.registry.version_history import History
from shared.errors import BadBundle, BadSetting, NotFound
from shared.schemas import NAME_RULE, is_name
from shared.validation_messages import describe_problems

CURRENT_FILE = "current"
CANARY_FILE = "canary.json"
ENDED_CANARY_FILE = "canary-ended.json"

# The current version can be pruned between reading `current` and opening it; then `current` has changed.
_RESOLVE_ATTEMPTS = 5
_CHOICES_SHOWN = 10


class ReadableStore:
    """The published models of one store, which need not exist yet.

    Every method may raise BadSetting (the name can't be a model's name) and StoreUnavailable (the storage can't be read
    or written).
    """

    def __init__(self, storage: Storage | Path, *, keys: TrustedKeys = NO_KEYS) -> None:
        """`storage` may also be the path of a local folder. With `keys`, `check` wants a signature of one of them."""
        self.keys = keys
        self.storage: Storage = LocalStorage(storage) if isinstance(storage, Path) else storage

    @property
    def root(self) -> Path:
        """The local folder that holds the bundles `resolve` returns: the store itself, or the cache of a remote one."""
        return self.storage.root

    @property
    def location(self) -> str:
        """The store's folder or URL, for messages."""
        return self.storage.location

    def names(self) -> list[str]:
        """The models that have at least one complete version, sorted."""
        return [name for name in self.model_folders() if self.versions(name)]

    def model_folders(self) -> list[str]:
        """The models that have a folder, though perhaps no complete version, sorted."""
        return [name for name in self.storage.models() if is_name(name)]

    def versions(self, name: str) -> list[int]:
        """The complete versions of a model, oldest first; empty for an unknown model.

        Complete means: the manifest parses, has this name and version, and every file that it lists exists. A bundle
        that is still being copied in by hand is not complete. Digests are not checked here; `open_bundle` does.
        """
        return [version for version in self.version_numbers(name) if self.manifest(name, version)]

    def version_numbers(self, name: str) -> list[int]:
        """The numbers of all versions that have a folder, complete or not, oldest first."""
        return self.storage.version_numbers(checked_model_name(name))

    def manifest(self, name: str, version: int) -> Manifest | None:
        """The manifest of a complete version, without fetching its other files; None when it isn't complete."""
        file = f"{folder_name(version)}/{MANIFEST_FILE}"
        try:
            data = self.storage.read(checked_model_name(name), file)
            manifest = parse_manifest(data, location=file) if data is not None else None
        except BadBundle:
            return None
        if manifest is None or (manifest.name, manifest.version) != (name, version):
            return None
        return manifest if manifest.files.keys() <= self.storage.files(name, version) else None

    def signatures(self, name: str, version: int) -> tuple[Signature, ...]:
        """The signatures of a version, not checked, without fetching its other files.

        Raises:
            BadSignature: their file doesn't parse.
        """
        file = f"{folder_name(version)}/{SIGNATURES_FILE}"
        data = self.storage.read(checked_model_name(name), file)
        return () if data is None else parse_signatures(data, location=f"{self.location}/{name}/{file}")

    def current(self, name: str) -> int:
        """The version that the bare name stands for.

        Raises:
            NotFound: the model has no published version.
        """
        version = self.pointer(name)
        if version is None:
            raise NotFound(self.not_found_message(f"model {name!r} has no current version"))
        return version

    def pointer(self, name: str) -> int | None:
        """The number in the file `current`, whether that version exists or not; None before the first promotion.

        Raises:
            BadBundle: the file doesn't hold a number.
        """
        return self.history(name).current

    def history(self, name: str) -> History:
        """The current version and those before it, newest first; some of them may have been deleted.

        Raises:
            BadBundle: the file `current` holds something other than numbers.
        """
        data = self.storage.read(checked_model_name(name), CURRENT_FILE)
        return History.parse(data, location=f"{self.location}/{name}/{CURRENT_FILE}")

    def canary(self, name: str) -> Canary | None:
        """The canary; None when there is none, or when its version was promoted.

        Raises:
            BadBundle: the file doesn't parse.
        """
        canary = self.canary_intent(name)
        return None if canary is None or canary.version == self.pointer(name) else canary

    def resolve(self, spec: str) -> Path:
        """The local folder of `NAME` (its current version) or `NAME@VERSION`; fetched, if the store is remote.

        Raises:
            BadSetting: `spec` is neither.
            NotFound: there is no such version, or it is incomplete; the message lists the versions that exist.
            BadBundle: it can't be fetched intact.
        """
        name, version = parse_spec(spec)
        if version is not None:
            return self._fetch_complete(name, version)
        for _ in range(_RESOLVE_ATTEMPTS):
            version = self.current(name)
            try:
                return self._fetch_complete(name, version)
            except NotFound:
                if self.pointer(name) == version:
                    raise
        return self._fetch_complete(name, self.current(name))

    def open(self, spec: str) -> Bundle:
        """Open `NAME` or `NAME@VERSION` after checking every byte of it, and its signature if `keys` are trusted.

        Raises:
            BadSetting, NotFound: as `resolve`.
            BadBundle: as `open_fetched`.
        """
        return self.open_fetched(self.resolve(spec))

    def open_fetched(self, folder: Path) -> Bundle:
        """Open what is in a folder that `resolve` gave, with the same checks.

        Raises:
            BadBundle: it is incomplete or was changed. BadSignature: it must be signed by a trusted key, and is not.
        """
        return open_bundle(folder, keys=self.keys)

    def check(self, name: str, version: int) -> None:
        """Check every file of a version, as the store holds it, against its manifest, and its signature.

        Raises:
            NotFound: there is no such version; the message lists the versions that exist.
            BadBundle: it is incomplete, or a file was changed; the message names the file. BadSignature: it must be
                signed by a trusted key, and is not.
        """
        with self.checked(name, version):
            pass

    @contextlib.contextmanager
    def checked(self, name: str, version: int) -> Iterator[Bundle]:
        """`check` a version, and yield it in a folder that exists until the block ends."""
        self._must_have(name, version)
        try:
            with self.storage.fresh_copy(name, version) as folder:
                yield open_expected(folder, name, version, keys=self.keys)
        except BadBundle as error:
            raise type(error)(f"{name}@{version} in {self.location}: {error}") from error

    def canary_intent(self, name: str) -> Canary | None:
        """Like `canary`, but returns the canary even if its version was promoted."""
        return self._read_canary(name, CANARY_FILE)

    def ended_canary(self, name: str) -> Canary | None:
        """The canary that ended last: a person or the workers stopped it, or its version was promoted.

        None if there is none, or if since then the version was promoted, or replaced as the current one.
        """
        try:
            return self._read_canary(name, ENDED_CANARY_FILE)
        except BadBundle:
            return None  # it was broken when it was stopped, or another release wrote it

    def _read_canary(self, name: str, file: str) -> Canary | None:
        data = self.storage.read(checked_model_name(name), file)
        if data is None:
            return None
        try:
            return Canary.model_validate_json(data)
        except ValidationError as error:
            raise BadBundle(
                f"{self.location}/{name}/{file} is not a canary of this release ({describe_problems(error)}): "
                f"`sortline models canary {name} --stop` removes it."
            ) from error

    def _fetch_complete(self, name: str, version: int) -> Path:
        if self.manifest(name, version) is None:
            raise NotFound(self.not_found_message(f"model {name}@{version} is missing or incomplete"))
        return self.storage.fetch(name, version)

    def _must_have(self, name: str, version: int) -> None:
        """Raise NotFound for an unknown version, before its files are fetched or opened."""
        if version not in self.version_numbers(name):
            raise NotFound(self.not_found_message(f"model {name}@{version} does not exist"))

    def not_found_message(self, what: str) -> str:
        """The message for something missing: `what` is missing, which versions exist, newest first, and what to do."""
        there = [f"{name}@{version}" for name in self.names() for version in reversed(self.versions(name))]
        has = f"it has {first_of(there)}. Name one of them, or train" if there else "it is empty. Train"
        return f"{what} in the model store {self.location}: {has} one with `sortline train`."


def first_of(choices: Sequence[str]) -> str:
    """The first choices for a message, and how many more there are."""
    more = len(choices) - _CHOICES_SHOWN
    shown = ", ".join(choices[:_CHOICES_SHOWN])
    return f"{shown} and {more:,} more (see `sortline models list`)" if more > 0 else shown


def parse_spec(spec: str) -> tuple[str, int | None]:
    """Parse `NAME` or `NAME@VERSION` into name and version.

    Raises:
        BadSetting: `spec` is neither.
    """
    name, at, version = spec.partition("@")
    is_number = version.isascii() and version.isdigit() and len(version) <= MAX_VERSION_DIGITS and int(version) > 0
    if not is_name(name) or (at and not is_number):
        raise BadSetting(f"model {spec!r} should be NAME or NAME@VERSION, e.g. bottles or bottles@3.")
    return name, int(version) if at else None


def checked_model_name(name: str) -> str:
    """Return `name` unchanged if it can be a model's name.

    Raises:
        BadSetting: it can't.
    """
    if not is_name(name):
        raise BadSetting(f"{name!r} can't be a model's name: {NAME_RULE}.")
    return name


def open_expected(folder: Path, name: str, version: int, *, keys: TrustedKeys = NO_KEYS) -> Bundle:
    """Open the bundle in `folder`, which should be this version, signed by one of the `keys` if there are any.

    Raises:
        BadBundle: it is incomplete, was changed, or is another version. BadSignature: see `open_bundle`.
    """
    bundle = open_bundle(folder, keys=keys)
    found = bundle.manifest
    if (found.name, found.version) != (name, version):
        raise BadBundle(
            f"the manifest says {found.name}@{found.version}, but {name}@{version} is expected: "
            "only publishing gives a bundle its name and version."
        )
    return bundle
