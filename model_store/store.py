"""The model store: a folder of published versions, each complete or absent.

    <root>/<name>/current            the version that `<name>` means, one line
    <root>/<name>/000003/            one bundle
    <root>/<name>/.staging-…/        a bundle being made; readers ignore it
    <root>/<name>/.lock              held by the one writer; the system frees it when the writer dies

In: names as users write them, `bottles` or `bottles@3`. Out: the folder of a bundle. `publish` is the only writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from model_store.bundle import file_digests, open_bundle, read_manifest
from shared.errors import BadBundle, BadSetting, NotFound
from shared.schemas import Name

__all__ = ["ModelStore", "file_digests"]

CURRENT_FILE = "current"
LOCK_FILE = ".lock"
STAGING_PREFIX = ".staging-"

_VERSION_FOLDER = re.compile(r"[0-9]{6,}")
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class ModelStore:
    """Published models below one local folder, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """The models that have at least one complete version, sorted."""
        return [name for name in self.folders() if self.versions(name)]

    def folders(self) -> list[str]:
        """The models that have a folder, though perhaps no complete version, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and _is_name(path.name))

    def versions(self, name: str) -> list[int]:
        """The complete versions of a model, oldest first; empty for an unknown model.

        Complete means: the manifest parses, is of this name and version, and every file it lists is
        there. A bundle that is still being copied in by hand is not. Digests are for `open_bundle`.
        """
        return [version for version, path in self.version_folders(name).items() if _is_complete(path, name, version)]

    def version_folders(self, name: str) -> dict[int, Path]:
        """Every folder that is a version by its name, complete or not, oldest first."""
        folder = self._folder(name)
        if not folder.is_dir():
            return {}
        found = {int(path.name): path for path in folder.iterdir() if _VERSION_FOLDER.fullmatch(path.name)}
        return dict(sorted(found.items()))

    def current(self, name: str) -> int:
        """The version that the bare name stands for.

        Raises:
            NotFound: the model has no published version.
        """
        version = self.pointer(name)
        if version is None:
            raise NotFound(self._nothing(f"model {name!r} has no current version"))
        return version

    def pointer(self, name: str) -> int | None:
        """The version that was made current last; None before the first was.

        Raises:
            BadBundle: the pointer's file doesn't hold a number.
        """
        path = self._folder(name) / CURRENT_FILE
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        try:
            return int(text)
        except ValueError as error:
            raise BadBundle(f"{path} holds {text[:40]!r}, should be a version's number: correct it.") from error

    def resolve(self, spec: str) -> Path:
        """The folder of `NAME` (its current version) or `NAME@VERSION`.

        Raises:
            BadSetting: `spec` is neither.
            NotFound: no such complete version; lists what there is.
        """
        name, version = parse_spec(spec)
        if version is None:
            version = self.current(name)
        path = self._folder(name) / _folder_name(version)
        if not _is_complete(path, name, version):
            raise NotFound(self._nothing(f"model {name}@{version} is not there, or not complete"))
        return path

    def publish(self, name: str, build: Callable[[Path, int], None]) -> Path:
        """Make the next version of a model and let `current` point to it.

        Killed at any point, this leaves either the old state or the new version (at worst not yet
        current); what a dead writer left over, the next one clears away.

        Args:
            name: of the model.
            build: called with an empty folder and the version's number; writes every file of the
                bundle there, `manifest.json` last.

        Returns:
            the published folder.

        Raises:
            BadSetting: the name can't be one of a model.
            BadBundle: what `build` wrote is not a bundle of this name and version; nothing is published.
            Whatever `build` raises; nothing is published.
        """
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        with _one_writer(folder):
            for leftover in folder.glob(f"{STAGING_PREFIX}*"):
                _remove(leftover)
            # The pointer counts too: a number is never used again, also when its version was deleted.
            version = max([self.pointer(name) or 0, *self.version_folders(name)]) + 1
            staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=folder))
            try:
                staging.chmod(0o755)  # mkdtemp's 0700 would shut out workers of another user
                build(staging, version)
                _check_built(staging, name, version)
                _sync_tree(staging)
                target = staging.rename(folder / _folder_name(version))
            except BaseException:
                _remove(staging)
                raise
            _sync(folder)
            self._point(name, version)
        _sync(self.root)
        return target

    def _point(self, name: str, version: int) -> None:
        folder = self._folder(name)
        aside = folder / f"{STAGING_PREFIX}{CURRENT_FILE}"
        aside.write_text(f"{version}\n")
        _sync(aside)
        aside.replace(folder / CURRENT_FILE)
        _sync(folder)

    def _folder(self, name: str) -> Path:
        if not _is_name(name):
            raise BadSetting(f"{name!r} can't be a model's name: letters, digits, `.`, `_` and `-`, at most 64.")
        return self.root / name

    def _nothing(self, what: str) -> str:
        there = [f"{name}@{version}" for name in self.names() for version in self.versions(name)]
        has = f"it has {', '.join(there)}" if there else "it is empty"
        return f"{what} in the model store {self.root}: {has}. Train one with `sortline train`, or set --model."


def parse_spec(spec: str) -> tuple[str, int | None]:
    """`NAME` or `NAME@VERSION` as name and version.

    Raises:
        BadSetting: it is neither.
    """
    name, at, version = spec.partition("@")
    if not _is_name(name) or (at and not (version.isascii() and version.isdigit() and int(version) > 0)):
        raise BadSetting(f"model {spec!r} should be NAME or NAME@VERSION, e.g. bottles or bottles@3.")
    return name, int(version) if at else None


def _folder_name(version: int) -> str:
    return f"{version:06d}"


def _is_name(text: str) -> bool:
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True


def _is_complete(path: Path, name: str, version: int) -> bool:
    try:
        manifest = read_manifest(path)
    except BadBundle:
        return False
    return (manifest.name, manifest.version) == (name, version) and all(
        (path / file).is_file() for file in manifest.files
    )


def _check_built(staging: Path, name: str, version: int) -> None:
    manifest = open_bundle(staging).manifest
    if (manifest.name, manifest.version) != (name, version):
        raise BadBundle(
            f"the manifest says {manifest.name}@{manifest.version} where {name}@{version} is being published: "
            "write the name and version that publish() was given."
        )


@contextlib.contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Wait for the model's lock and hold it. flock, because the system frees it when its holder is killed."""
    with (folder / LOCK_FILE).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    """Everything below `folder` and itself to the disk: contents before the names that lead to them."""
    for path, _, files in os.walk(folder, topdown=False):
        for file in files:
            _sync(Path(path, file))
        _sync(Path(path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
