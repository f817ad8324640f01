"""Opens a bundle, one published version of one model, and checks the digest of each of its files.

In: a folder. Out: a Bundle whose files all have the digests that its manifest lists. To serve a bundle, use
`open_bundle` and then `model_store.engines.loading.open_engine`.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from model_store.bundle.manifest import MANIFEST_FILE, Manifest
from shared.errors import BadBundle
from shared.regular_files import open_regular, read_regular
from shared.schemas import ModelRef
from shared.validation_messages import describe_problems

# A manifest of a thousand classes has about 100 KB.
MAX_MANIFEST_BYTES = 50_000_000


@dataclass(frozen=True)
class Bundle:
    """A folder whose files are complete and unchanged."""

    path: Path
    manifest: Manifest

    def ref(self, engine: str) -> ModelRef:
        """How results refer to this model when `engine` runs it."""
        return ModelRef(name=self.manifest.name, version=self.manifest.version, engine=engine)


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder` except `manifest.json`, by its path relative to `folder`, with `/`.

    Raises:
        BadBundle: an entry is neither a file nor a folder (a link would not survive a copy), or can't be read.
    """
    try:
        return dict(_digests(folder))
    except OSError as error:  # most likely it was deleted meanwhile
        path = error.filename or folder
        raise BadBundle(f"{path} can't be read: {error.strerror}. Publish the model again.") from error


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise BadBundle(f"{path} is neither a plain file nor a folder: a bundle may hold only those.")
        name = path.relative_to(folder).as_posix()
        if stat.S_ISREG(mode) and name != MANIFEST_FILE:
            with open_regular(path) as file:
                yield name, hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the bundle in folder `path`, without checking the bundle's other files.

    Raises:
        BadBundle: there is no manifest, or it doesn't parse.
    """
    try:
        data = read_regular(path / MANIFEST_FILE, max_bytes=MAX_MANIFEST_BYTES)
    except OSError as error:
        raise BadBundle(
            f"{path} has no readable {MANIFEST_FILE}: {error.strerror}. Publish the model again."
        ) from error
    return parse_manifest(data, location=f"{path / MANIFEST_FILE}")


def parse_manifest(data: bytes, *, location: str) -> Manifest:
    """Parse `data`, the content of a manifest file; `location` names the file in the error.

    Raises:
        BadBundle: it doesn't parse.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BadBundle(f"{location} is not a manifest of this release: {describe_problems(error)}.") from error


def open_bundle(path: Path) -> Bundle:
    """Check every file of the bundle in folder `path`, and open it.

    Raises:
        BadBundle: the manifest doesn't parse, a listed file is missing or changed, or a file is not listed; the
            message names the file.
    """
    manifest = read_manifest(path)
    _compare_digests(path, expected=manifest.files, found=file_digests(path))
    return Bundle(path, manifest)


def _compare_digests(path: Path, *, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    remedy = "Copy the bundle again from where it came, or publish the model again."
    if missing := sorted(expected.keys() - found.keys()):
        raise BadBundle(f"{path}: {missing[0]} is missing ({len(missing)} missing in all). {remedy}")
    if unlisted := sorted(found.keys() - expected.keys()):
        raise BadBundle(
            f"{path}: {unlisted[0]} is not listed in {MANIFEST_FILE} ({len(unlisted)} unlisted in all). "
            "Move it out of the bundle."
        )
    for name, digest in expected.items():
        if found[name] != digest:
            raise BadBundle(f"{path}: {name} has SHA-256 {found[name]}, but its manifest says {digest}. {remedy}")
