"""Opens and reads files by names that others chose: only regular files, and never more of one than its reader can use.

A folder may hold a pipe whose name ends in `.jpg`: opening it waits for ever. It may hold a link to `/dev/zero`, or a
sparse file of 20 GB: reading them whole takes all memory. Here the first is refused without a wait, and of the others,
only as much is read as the reader allows. Refusals are OSErrors, so they are answered as any file that can't be read.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path


class NotRegular(OSError):
    """It is neither a regular file nor a folder."""


class TooLarge(OSError):
    """The file has more bytes than its reader allows."""


def open_regular(path: str | os.PathLike[str], *, follow_link: bool = True) -> io.BufferedReader:
    """Open a regular file for reading.

    Args:
        path: the file.
        follow_link: whether `path` may be a link to a regular file.

    Raises:
        NotRegular: it is a pipe, socket, device, or link that is not followed.
        OSError: it can't be opened, or is a folder.
    """
    # Looked at first, because opening a device may do something (a tape rewinds), and again once it is open, because
    # another file may have its name by then. A pipe that takes the name in between does not wait, due to O_NONBLOCK.
    _check_regular(os.stat(path, follow_symlinks=follow_link), path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags if follow_link else flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow_link:
            raise _not_regular(path) from error
        raise
    try:
        _check_regular(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_start(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Read a regular file up to one byte more than `max_bytes`, by which the reader sees that it is too large.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        return file.read(max_bytes + 1)


def read_regular(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Read the whole of a regular file.

    Raises:
        TooLarge: the file has more than `max_bytes`.
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= max_bytes:  # otherwise not a byte is read
            data = file.read(max_bytes + 1)
            if len(data) <= max_bytes:  # it may grow, and files of /proc claim to be empty
                return data
    raise TooLarge(errno.EFBIG, f"it has more than {max_bytes:,} bytes, the limit for such a file", os.fspath(path))


def read_regular_text(path: Path, *, max_bytes: int, encoding: str = "utf-8") -> str:
    """The text of a regular file, its line ends as `Path.read_text` gives them.

    Raises:
        OSError: as `read_regular`.
        UnicodeDecodeError: it is not text of this encoding.
    """
    text = read_regular(path, max_bytes=max_bytes).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular(path)


def _not_regular(path: str | os.PathLike[str]) -> NotRegular:
    return NotRegular(errno.EINVAL, "not a regular file, but a pipe, socket, device or link", os.fspath(path))
