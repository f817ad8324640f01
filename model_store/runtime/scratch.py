"""Scratch folders, and disk errors in them and in the cache: those become a BadSetting that names what to change.

TensorFlow reports a full disk with its own error types, so the text of an error is checked too.
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
    """Translate the disk errors of a block that writes below `cache`, the settings' `cache_path`.

    Raises:
        BadSetting: the disk refused a write.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_error(error):
            raise
        raise BadSetting(
            f"cache_dir = {cache} can't be used: {describe_disk_error(error)}. Free some space or get write permission "
            "there, or name another folder with --cache-dir."
        ) from error


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Yield a temporary folder, which is deleted at the end of the block.

    Raises:
        BadSetting: the folder can't be created, or the disk refused a write of the block.
    """
    folder = ""
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as folder:
            yield Path(folder)
    except Exception as error:
        if not is_disk_error(error):
            raise
        raise scratch_error(error, folder=folder or "for temporary files") from error


def scratch_error(error: Exception, *, folder: Path | str) -> BadSetting:
    """The BadSetting for a disk error in a scratch folder."""
    return BadSetting(
        f"the scratch folder {folder} can't be used: {describe_disk_error(error)}. Free some space or get write "
        "permission there, or set the environment variable TMPDIR to another folder."
    )


def is_disk_error(error: Exception) -> bool:
    """Whether this is a disk error that has not been translated yet."""
    return not isinstance(error, SortlineError) and (isinstance(error, OSError) or _DISK_FULL in str(error))


def describe_disk_error(error: BaseException) -> str:
    """The reason in a few words, and the file if the error names one."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.strerror, error.filename) if part)
    if _DISK_FULL in str(error):
        return _DISK_FULL
    return (str(error).strip().splitlines() or [type(error).__name__])[0]  # TensorFlow's messages have several
