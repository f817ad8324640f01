"""Files that hold a password or a passphrase and nothing else, e.g. secrets that Docker or Kubernetes mounts.

Messages name the file, and never quote what is in it. Nobody else reads such files.
"""

from __future__ import annotations

from pathlib import Path

from shared.errors import BadSetting
from shared.regular_files import read_start

MAX_SECRET_BYTES = 4096


def usable_secret(text: str) -> str:
    """The secret without the ends of lines after it, which editors and `echo` write.

    Raises:
        ValueError: it can't be a secret; the text says why, and does not quote it.
    """
    secret = text.rstrip("\r\n")
    if not secret:
        raise ValueError("is empty: write the secret into it")
    if not secret.isprintable():
        raise ValueError("should be one line of printable characters: the secret alone")
    return secret


def read_secret(file: Path, *, where: str) -> str:
    """The secret that a file holds. `where` says in errors who named which file.

    Raises:
        BadSetting: the file can't be used.
    """
    try:
        data = read_start(file, max_bytes=MAX_SECRET_BYTES)
    except OSError as error:
        raise BadSetting(
            f"{where}: it can't be read: {error.strerror}. Name a file that this user may read, and that holds the "
            "secret alone."
        ) from error
    if len(data) > MAX_SECRET_BYTES:
        raise BadSetting(f"{where}: it holds more than {MAX_SECRET_BYTES:,} bytes: write the secret alone into it.")
    try:
        return usable_secret(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadSetting(f"{where}: it is not UTF-8 ({error.reason}). Save it as UTF-8.") from None
    except ValueError as error:
        raise BadSetting(f"{where}: the file {error}.") from None
