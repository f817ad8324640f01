"""Opens the files of a bundle or store: regular files only, and small ones only up to a bound.

In: a path that somebody else may have made. Out: an open file, or its bytes. `shared.regular_files` says what is
refused; here the refusal is a BadBundle.
"""

from __future__ import annotations

from io import BufferedReader
from pathlib import Path

from shared.errors import BadBundle
from shared.regular_files import NotRegular, TooLarge, open_regular, read_regular

# Far above what is written: the manifest of a model with ImageNet's 1,000 classes takes 0.2 MB.
MAX_SMALL_FILE_BYTES = 8_000_000


def open_bundle_file(path: Path) -> BufferedReader:
    """Open a bundle's file for reading. A link is not followed: it would not survive a copy of the bundle.

    Raises:
        BadBundle: it is a link, pipe, socket or device.
        OSError: it can't be opened, or is a folder.
    """
    try:
        return open_regular(path, follow_link=False)
    except NotRegular as error:
        raise _not_regular(path) from error


def read_small_file(path: Path) -> bytes:
    """The content of a regular file of at most MAX_SMALL_FILE_BYTES; `path` may be a link to one.

    Raises:
        BadBundle: it is not a regular file, or is larger.
        OSError: it can't be read.
    """
    try:
        return read_regular(path, max_bytes=MAX_SMALL_FILE_BYTES)
    except NotRegular as error:
        raise _not_regular(path) from error
    except TooLarge as error:
        raise too_large(str(path)) from error


def too_large(location: str) -> BadBundle:
    """The error of a small file that has more than MAX_SMALL_FILE_BYTES."""
    return BadBundle(
        f"{location} has more than {MAX_SMALL_FILE_BYTES:,} bytes, so Sortline did not write it: remove it."
    )


def _not_regular(path: Path) -> BadBundle:
    return BadBundle(f"{path} is neither a regular file nor a folder: a bundle may hold only those.")
