"""Opens a bundle, one published version of one model, and checks the digest of each of its files.

In: a folder. Out: a Bundle whose files all have the digests that its manifest lists. To serve a bundle, use
`open_bundle` and then `model_store.engines.loading.open_engine`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from model_store.bundle.file_reading import open_bundle_file, read_small_file
from model_store.bundle.manifest import MANIFEST_FILE, SIGNATURES_FILE, Manifest
from model_store.bundle.signatures import NO_KEYS, TrustedKeys, check_signed, read_signatures, valid_signers
from shared.errors import BadBundle
from shared.public_keys import PublicKey
from shared.schemas import ModelRef
from shared.validation_messages import describe_problems

# The largest image modules of TF-Hub take 3.7 GB, and a bundle holds each of its weights three times.
MAX_BYTES = 20_000_000_000
MAX_ENTRIES = 20_000


@dataclass(frozen=True)
class Bundle:
    """A folder whose files are complete and unchanged."""

    path: Path
    manifest: Manifest
    # What the manifest was parsed from, and what is signed; none if the manifest was not read.
    manifest_bytes: bytes = field(default=b"", repr=False)

    @property
    def manifest_sha256(self) -> str:
        """The digest of the manifest, and so, by the digests in it, of everything in the bundle."""
        return hashlib.sha256(self.manifest_bytes).hexdigest()

    def ref(self, engine: str) -> ModelRef:
        """How results refer to this model when `engine` runs it."""
        return ModelRef(name=self.manifest.name, version=self.manifest.version, engine=engine)


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder`, by its path relative to `folder`, with `/`.

    The manifest and its signatures are left out: a manifest can't list itself, and is signed when it is complete.

    Raises:
        BadBundle: an entry is neither a file nor a folder (a link would not survive a copy), or can't be read; or there
            are too many entries, or too many bytes.
    """
    try:
        return dict(_digests(folder))
    except OSError as error:  # most likely it was deleted meanwhile
        path = error.filename or folder
        raise BadBundle(f"{path} can't be read: {error.strerror}. Publish the model again.") from error


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    total_bytes = 0
    for path in sorted(_entries(folder)):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            continue
        name = path.relative_to(folder).as_posix()
        total_bytes += status.st_size
        if total_bytes > MAX_BYTES:
            raise BadBundle(f"{folder} has more than {MAX_BYTES:,} bytes, at {name}: it is not a bundle.")
        with open_bundle_file(path) as file:
            if name not in (MANIFEST_FILE, SIGNATURES_FILE):
                yield name, hashlib.file_digest(file, "sha256").hexdigest()


def _entries(folder: Path) -> list[Path]:
    """Everything below the folder; folders behind links are not entered."""
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except FileNotFoundError:  # deleted meanwhile: its files will be missing
            continue
        with entries:
            for entry in entries:
                found.append(Path(entry.path))
                if len(found) > MAX_ENTRIES:
                    raise BadBundle(f"{folder} has more than {MAX_ENTRIES:,} files and folders: it is not a bundle.")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
    return found


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the bundle in folder `path`, without checking the bundle's other files.

    Raises:
        BadBundle: there is no manifest, or it doesn't parse.
    """
    return parse_manifest(_manifest_bytes(path), location=f"{path / MANIFEST_FILE}")


def signers(path: Path) -> list[PublicKey]:
    """The keys that have signed the manifest of the bundle in folder `path`, trusted or not.

    Raises:
        BadBundle: the manifest or the signatures don't parse.
    """
    signatures = read_signatures(path)
    if not signatures:
        return []
    data = _manifest_bytes(path)
    return valid_signers(parse_manifest(data, location=f"{path / MANIFEST_FILE}"), data, signatures)


def _manifest_bytes(path: Path) -> bytes:
    try:
        return read_small_file(path / MANIFEST_FILE)
    except OSError as error:
        raise BadBundle(
            f"{path} has no readable {MANIFEST_FILE}: {error.strerror}. Publish the model again."
        ) from error


def parse_manifest(data: bytes, *, location: str) -> Manifest:
    """Parse `data`, the content of a manifest file; `location` names the file in the error.

    Raises:
        BadBundle: it doesn't parse.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BadBundle(f"{location} is not a manifest of this release: {describe_problems(error)}.") from error


def open_bundle(path: Path, *, keys: TrustedKeys = NO_KEYS) -> Bundle:
    """Check every file of the bundle in folder `path`, and open it.

    Args:
        path: the folder.
        keys: if there are any, one of them must have signed the manifest.

    Raises:
        BadBundle: the manifest doesn't parse, a listed file is missing or changed, or a file is not listed; the
            message names the file. BadSignature: no trusted key has signed it.
    """
    data = _manifest_bytes(path)
    manifest = parse_manifest(data, location=f"{path / MANIFEST_FILE}")
    if keys:
        check_signed(manifest, data, read_signatures(path), keys=keys)
    _compare_digests(path, expected=manifest.files, found=file_digests(path))
    return Bundle(path, manifest, data)


def read_checked(bundle: Bundle, name: str) -> bytes:
    """The content of one of the bundle's files, if it still has the digest that the manifest lists.

    `open_bundle` checked the file, but it may have been exchanged since.

    Raises:
        BadBundle: it can't be read, was changed, or the manifest doesn't list it.
    """
    path = bundle.path / name
    expected = {name: bundle.manifest.files.get(name, "nothing")}
    try:
        with open_bundle_file(path) as file:
            # First without keeping it: a file that was exchanged may be far larger than the memory.
            _compare_digests(
                bundle.path, expected=expected, found={name: hashlib.file_digest(file, "sha256").hexdigest()}
            )
            size_bytes = file.tell()
            file.seek(0)
            data = file.read(size_bytes)
    except OSError as error:
        raise BadBundle(f"{path} can't be read: {error.strerror}. Publish the model again.") from error
    _compare_digests(bundle.path, expected=expected, found={name: hashlib.sha256(data).hexdigest()})
    return data


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
