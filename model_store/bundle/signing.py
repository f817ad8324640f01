"""Private keys: makes them, loads them, and signs manifests with them.

In: a file in PEM form, with a passphrase or without. Out: a Signer. Neither key nor passphrase is ever printed.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.bundle.manifest import SIGNATURES_FILE, Manifest
from model_store.bundle.signatures import MAX_SIGNATURES, Signature, Signatures, TrustedKeys, message_of
from shared.errors import BadSetting
from shared.public_keys import PublicKey
from shared.regular_files import read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MAX_KEY_BYTES = 10_000
_OTHERS = 0o077


class Signer:
    """A private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> PublicKey:
        """The public half, for `trusted_keys`."""
        return PublicKey(self._key.public_key().public_bytes_raw())

    def sign(self, manifest: Manifest, data: bytes) -> Signature:
        """Sign the manifest, which was parsed from `data`."""
        signature = self._key.sign(message_of(manifest, data))
        return Signature(key=str(self.public_key), signature=base64.b64encode(signature).decode())


def useful_signatures(
    signatures: tuple[Signature, ...], manifest: Manifest, data: bytes, *, keys: TrustedKeys
) -> tuple[Signature, ...]:
    """The signatures that fit the manifest, which was parsed from `data`: first those of trusted keys.

    Where `keys` are set, there is always place for one more: of the others, the last ones are left out.
    """
    message = message_of(manifest, data)
    fitting = [signature for signature in signatures if signature.is_of(message)]
    if not keys:
        return tuple(fitting)
    trusted = [signature for signature in fitting if signature.public_key in keys.keys]
    others = [signature for signature in fitting if signature.public_key not in keys.keys]
    return (*trusted, *others[: max(0, MAX_SIGNATURES - 1 - len(trusted))])


def add_signature(signatures: tuple[Signature, ...], new: Signature) -> bytes:
    """The content of the file with these signatures and the new one, which replaces an earlier one of its key.

    Raises:
        BadSetting: there would be too many.
    """
    others = [signature for signature in signatures if signature.public_key != new.public_key]
    if len(others) >= MAX_SIGNATURES:
        raise BadSetting(
            f"the version has {len(others)} signatures already, and can't have more. If you don't know these keys, set "
            f"trusted_keys, or delete the version's {SIGNATURES_FILE} in the store; then sign it again."
        )
    return Signatures(signatures=(*others, new)).model_dump_json(indent=2).encode()


def make_key(path: Path, *, passphrase: bytes | None) -> Signer:
    """Make a key and write it to the new file `path`, which only its owner may read.

    Raises:
        BadSetting: the file exists, or can't be written.
    """
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    encryption = forms.BestAvailableEncryption(passphrase) if passphrase else forms.NoEncryption()
    pem = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, encryption)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(pem)
    except FileExistsError as error:
        raise BadSetting(f"{path} exists already. Name a new file: a key that is lost can't be made again.") from error
    except OSError as error:
        raise BadSetting(f"the key {path} can't be written: {error.strerror}.") from error
    return Signer(key)


def load_key(path: Path, *, passphrase: bytes | None) -> Signer:
    """Load the private key in the file `path`.

    Raises:
        BadSetting: it can't be read, is no Ed25519 key in PEM form, or the passphrase is wrong or missing.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path, "key")
    try:
        key = load_pem_private_key(data, passphrase)
    except TypeError as error:  # a passphrase is needed and not given, or given and not needed
        remedy = "leave out --passphrase-file" if passphrase else "give --passphrase-file"
        raise BadSetting(f"the key {path} can't be used: {error}: {remedy}.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadSetting(
            f"{path} is not a private key in PEM form, or the passphrase is wrong. `sortline models keygen` makes one."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadSetting(f"{path} is another kind of key, not Ed25519. `sortline models keygen` makes one.")
    return Signer(key)


def is_readable_by_others(path: Path) -> bool:
    """Whether other users of this machine may read or write the file."""
    return bool(path.stat().st_mode & _OTHERS)


def _read(path: Path, what: str) -> bytes:
    try:
        return read_regular(path, max_bytes=_MAX_KEY_BYTES)
    except OSError as error:
        raise BadSetting(f"the {what} file {path} can't be read: {error.strerror}.") from error
