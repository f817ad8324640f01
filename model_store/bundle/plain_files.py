"""Opens the files of a bundle or store: plain files only, and small ones only up to a bound.

In: a path that somebody else may have made. Out: an open file, or its bytes. A pipe would let its reader wait for ever,
and a device or a sparse file would fill the memory.
"""

from __future__ import annotations

from io import BufferedReader
from pathlib import Path

from shared.errors import BadBundle
from shared.regular_files import NOT_REGULAR, open_regular

# Far above what is written: the manifest of a model with ImageNet's 1,000 classes takes 0.2 MB.
MAX_SMALL_FILE_BYTES = 8_000_000


def open_plain(path: Path, *, follow_link: bool = False) -> BufferedReader:
    """Open a plain file for reading.

    Args:
        path: the file.
        follow_link: whether `path` may be a link to a plain file.

    Raises:
        BadBundle: it is a link, pipe, socket or device.
        OSError: it can't be opened, or is a folder.
    """
    try:
        return open_regular(path, follow_link=follow_link)
    except OSError as error:
        if error.errno == NOT_REGULAR:
            raise BadBundle(f"{path} is neither a plain file nor a folder: a bundle may hold only those.") from error
        raise


def read_small_file(path: Path, *, max_bytes: int = MAX_SMALL_FILE_BYTES) -> bytes:
    """The content of a plain file of at most `max_bytes`; `path` may be a link to one.

    Raises:
        BadBundle: it is not a plain file, or is larger.
        OSError: it can't be read.
    """
    with open_plain(path, follow_link=True) as file:
        return within_bound(file.read(max_bytes + 1), location=str(path), max_bytes=max_bytes)


def within_bound(data: bytes, *, location: str, max_bytes: int = MAX_SMALL_FILE_BYTES) -> bytes:
    """Return `data`, the first bytes of the file `location`, if there are at most `max_bytes`.

    Raises:
        BadBundle: there are more.
    """
    if len(data) > max_bytes:
        raise BadBundle(f"{location} has more than {max_bytes:,} bytes, so Sortline did not write it: remove it.")
    return data
