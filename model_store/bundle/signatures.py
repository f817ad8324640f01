"""Signatures of a version: who vouches for its manifest, and so for every file that the manifest lists.

In: `manifest.sig`, beside `manifest.json`, and the setting `trusted_keys`. Out: nothing, or BadSignature. Digests lie
beside the files that they are of, so they stop nobody who can write the store; a signature does. It covers the name and
number of the version and all bytes of the manifest: with it the policy, the regions, and the digest of every other
file. It doesn't cover `current` and `canary.json`: whoever can write the store may choose among the signed versions.

`cryptography` is imported only when a signature is made or checked.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from model_store.bundle.file_reading import read_small_file
from model_store.bundle.manifest import SIGNATURES_FILE, Manifest
from shared.comma_lists import split_list
from shared.errors import BadBundle, BadSetting, BadSignature
from shared.home_folder import expand_home
from shared.public_keys import PREFIX, PublicKey
from shared.regular_files import read_regular
from shared.validation_messages import describe_problems

MAX_SIGNATURES = 16
_MAX_KEYS_FILE_BYTES = 100_000
_SIGNED_AS = "sortline model 1"  # so that no signature for another purpose can be taken for one of these


class Signature(BaseModel):
    """The signature of one key, in Base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    signature: str

    @field_validator("key")
    @classmethod
    def _is_public_key(cls, value: str) -> str:
        return str(PublicKey.parse(value))

    @property
    def public_key(self) -> PublicKey:
        """The key that it claims to be made with."""
        return PublicKey.parse(self.key)

    def is_of(self, message: bytes) -> bool:
        """Whether the key has signed this message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            signature = base64.b64decode(self.signature, validate=True)
            Ed25519PublicKey.from_public_bytes(self.public_key.raw).verify(signature, message)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


class Signatures(BaseModel):
    """The file `manifest.sig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    signatures: Annotated[tuple[Signature, ...], Field(max_length=MAX_SIGNATURES)] = ()


@dataclass(frozen=True)
class TrustedKeys:
    """The keys of the setting `trusted_keys`; false if there are none, and then nothing has to be signed."""

    keys: frozenset[PublicKey] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.keys)

    @property
    def ids(self) -> str:
        """The keys' ids, for messages."""
        return ", ".join(sorted(key.id for key in self.keys))


NO_KEYS = TrustedKeys()


def load_trusted_keys(setting: str) -> TrustedKeys:
    """The keys that the setting `trusted_keys` names: public keys, or paths of files with one on each line.

    Raises:
        BadSetting: a file can't be read, or has something other than keys, empty lines and `#` comments; or it has no
            key, so that nothing would have to be signed.
    """
    keys = TrustedKeys(frozenset(_keys(split_list(setting))))
    if setting and not keys:
        raise BadSetting(f"trusted_keys = {setting!r} names no key, so that nothing would have to be signed.")
    return keys


def _keys(items: Iterable[str]) -> Iterator[PublicKey]:
    for item in items:
        if item.startswith(PREFIX):
            yield PublicKey.parse(item)
        else:
            yield from _keys_of_file(expand_home(item, name="trusted_keys"))


def _keys_of_file(path: Path) -> list[PublicKey]:
    try:
        text = read_regular(path, max_bytes=_MAX_KEYS_FILE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadSetting(f"trusted_keys: the file {path} can't be read: {reason}.") from error
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            keys.append(PublicKey.parse(" ".join(words)))
        except ValueError as error:
            raise BadSetting(f"trusted_keys: {path}, line {number}: {error}.") from error
    if not keys:
        raise BadSetting(f"trusted_keys: {path} has no key. Write one on each line, e.g. {PREFIX}…")
    return keys


def message_of(manifest: Manifest, data: bytes) -> bytes:
    """What is signed: the purpose, name and number, and the manifest's bytes `data`."""
    return f"{_SIGNED_AS}\n{manifest.name}@{manifest.version}\n".encode() + data


def read_signatures(folder: Path) -> tuple[Signature, ...]:
    """The signatures of the bundle in `folder`, not checked; none if it has no such file.

    Raises:
        BadSignature: the file can't be read, or doesn't parse.
    """
    try:
        data = read_small_file(folder / SIGNATURES_FILE)
    except FileNotFoundError:
        return ()
    except (OSError, BadBundle) as error:
        raise BadSignature(f"{folder / SIGNATURES_FILE} can't be read: {error}. Sign the version again.") from error
    return parse_signatures(data, location=str(folder / SIGNATURES_FILE))


def parse_signatures(data: bytes, *, location: str) -> tuple[Signature, ...]:
    """Parse the content of a file of signatures; `location` names it in the error.

    Raises:
        BadSignature: it doesn't parse.
    """
    try:
        return Signatures.model_validate_json(data).signatures
    except ValidationError as error:
        raise BadSignature(
            f"{location} is not a file of signatures of this release: {describe_problems(error)}. Remove it, and sign "
            "the version again."
        ) from error


def valid_signers(manifest: Manifest, data: bytes, signatures: Iterable[Signature]) -> list[PublicKey]:
    """The keys whose signatures fit the manifest, which was parsed from `data`."""
    message = message_of(manifest, data)
    return [signature.public_key for signature in signatures if signature.is_of(message)]


def check_signed(manifest: Manifest, data: bytes, signatures: tuple[Signature, ...], *, keys: TrustedKeys) -> None:
    """Check that one of the `keys` has signed the manifest, which was parsed from `data`.

    Raises:
        BadSignature: none has.
    """
    who = f"{manifest.name}@{manifest.version}"
    remedy = f"Sign it with `sortline models sign {who} --key FILE`, or add the signer's key to trusted_keys."
    trusted = [signature for signature in signatures if signature.public_key in keys.keys]
    if any(signature.is_of(message_of(manifest, data)) for signature in trusted):
        return
    if trusted:
        raise BadSignature(
            f"{who}: the signature of key {trusted[0].public_key.id} is of another manifest: this one was changed "
            "after it was signed. Publish the model again from where it came, or find out who changed it."
        )
    if signatures:
        others = ", ".join(signature.public_key.id for signature in signatures)
        raise BadSignature(f"{who} is signed by key {others}, but trusted_keys names {keys.ids}. {remedy}")
    raise BadSignature(f"{who} is not signed, but trusted_keys requires a signature of {keys.ids}. {remedy}")
