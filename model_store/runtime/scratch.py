"""The cache and the scratch folder. Disk errors there become an error that names the setting to change.

TensorFlow reports a full disk by errors of its own, so the text of an error is checked too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shared.errors import BadSetting, SortlineError

_DISK_FULL = os.strerror(errno.ENOSPC)


@contextlib.contextmanager
def cache_write_errors(cache: Path) -> Iterator[None]:
    """Translates disk errors of a block that writes below `cache`, the settings' `cache_path`.

    Raises:
        BadSetting: the disk refused a write.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_error(error):
            raise
        raise BadSetting(
            f"cache_dir = {cache} can't be used: {describe_disk_error(error)}. Make room or get the right to write "
            "there, or name another folder with --cache-dir."
        ) from error


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder, deleted at the end of the block.

    Raises:
        BadSetting: it can't be made, or the disk refused a write of the block.
    """
    folder = ""
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as folder:
            yield Path(folder)
    except Exception as error:
        if not is_disk_error(error):
            raise
        raise BadSetting(
            f"the scratch folder {folder or 'for temporary files'} can't be used: {describe_disk_error(error)}. Make "
            "room or get the right to write there, or name another folder by the variable TMPDIR."
        ) from error


def is_disk_error(error: Exception) -> bool:
    """Whether this is an error of the disk that was not translated yet."""
    return not isinstance(error, SortlineError) and (isinstance(error, OSError) or _DISK_FULL in str(error))


def describe_disk_error(error: BaseException) -> str:
    """The reason in a few words, and the file."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.strerror, error.filename) if part)
    return _DISK_FULL if _DISK_FULL in str(error) else str(error) or type(error).__name__
