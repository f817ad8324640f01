"""The cache and the scratch folder: what the disk refuses there becomes an error that names the setting to change.

TensorFlow reports a full disk by errors of its own, so the text is looked at too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shared.errors import BadSetting, SortlineError

_FULL = os.strerror(errno.ENOSPC)


@contextlib.contextmanager
def writing_cache(cache: Path) -> Iterator[None]:
    """For a block that writes below `cache`, the settings' `cache_path`.

    Raises:
        BadSetting: the disk refuses it.
    """
    try:
        yield
    except Exception as error:
        if not is_disks(error):
            raise
        raise BadSetting(
            f"cache_dir = {cache} can't be used: {reason(error)}. Make room or get the right to write there, or name "
            "another folder with --cache-dir."
        ) from error


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder, gone at the end of the block.

    Raises:
        BadSetting: the disk refuses it, or what the block writes there.
    """
    where = ""
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as where:
            yield Path(where)
    except Exception as error:
        if not is_disks(error):
            raise
        raise BadSetting(
            f"the scratch folder {where or 'for temporary files'} can't be used: {reason(error)}. Make room or get the "
            "right to write there, or name another folder by the variable TMPDIR."
        ) from error


def is_disks(error: Exception) -> bool:
    """Whether the system refused it, and nobody has said so yet in words of ours."""
    return not isinstance(error, SortlineError) and (isinstance(error, OSError) or _FULL in str(error))


def reason(error: BaseException) -> str:
    """Why, in a few words, and of which file."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.strerror, error.filename) if part)
    return _FULL if _FULL in str(error) else str(error) or type(error).__name__
