"""`sortline models keygen` and `models sign`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_store.commands.options import StoreFlag, open_store_by_flag
from shared.cli import JsonFlag, print_json
from shared.messages import note, say

if TYPE_CHECKING:
    from model_store.bundle.signing import Signer

PassphraseFlag = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="file that holds nothing but the key's passphrase"),
]


def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="new file for the private key")],
    passphrase_file: PassphraseFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key to sign versions with. Prints its public half, for the setting trusted_keys.

    Only the file's owner may read it. Whoever has the file (and the passphrase) can sign, so keep it away from the
    store and from the workers.

    Example: sortline models keygen release.key --passphrase-file passphrase.txt
    """
    from model_store.bundle.signing import make_key

    key = make_key(file, passphrase=_passphrase(passphrase_file)).public_key
    if as_json:
        print_json({"file": str(file), "public_key": str(key), "key_id": key.id})
        return
    say(f"private key: {file} (keep it secret)")
    say(f"public key {key.id}, for trusted_keys:")
    say(key)


def sign(
    model: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="version to sign; NAME: the current one")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="private key, made by `models keygen`")],
    passphrase_file: PassphraseFlag = None,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Sign a version, after checking every byte of it. Workers that trust the key will then load it.

    The signature covers the version's name, number and manifest, and so its policy and every file that it lists. A
    version can have the signatures of several keys.

    Example: sortline models sign bottles@3 --key release.key
    """
    from model_store.registry.store import parse_spec

    store = open_store_by_flag(model_store)
    signer = _signer(key, passphrase_file)
    name, version = parse_spec(model)
    if version is None:
        version = store.current(name)
    store.sign(name, version, signer)
    if as_json:
        print_json(
            {"name": name, "version": version, "key_id": signer.public_key.id, "public_key": str(signer.public_key)}
        )
        return
    say(f"{name}@{version} is signed by key {signer.public_key.id}")
    say(f"trusted_keys of the workers should have {signer.public_key}")


def _signer(key: Path, passphrase_file: Path | None) -> Signer:
    from model_store.bundle.signing import is_readable_by_others, load_key

    signer = load_key(key, passphrase=_passphrase(passphrase_file))
    if is_readable_by_others(key):
        note(f"sortline: other users of this machine may read the private key {key}: chmod 600 {key}")
    return signer


def _passphrase(file: Path | None) -> bytes | None:
    from shared.secret_files import read_secret

    return None if file is None else read_secret(file, where=f"--passphrase-file {file}").encode()
