"""Checks that an output file or folder can be written. Commands call this before any long work, not after it.

In: the path that a flag or setting names. Out: nothing, or BadSetting.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from shared.errors import BadSetting


def check_output_file(path: Path, *, flag: str) -> None:
    """Raise if the file can't be written. An existing file keeps its content; a new one is not left behind.

    Raises:
        BadSetting: names the flag, the path and the reason.
    """
    try:
        existed = path.exists()
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise unwritable_error(path, error, flag=flag) from error


def check_output_folder(path: Path, *, flag: str) -> None:
    """Create the folder, and raise if no file can be created in it.

    Raises:
        BadSetting: names the flag, the path and the reason.
    """
    try:
        make_writable_folder(path)
    except OSError as error:
        raise unwritable_error(path, error, flag=flag) from error


def make_writable_folder(path: Path) -> None:
    """Create the folder, and raise OSError if no file can be created in it."""
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()


def unwritable_error(path: Path, error: OSError, *, flag: str) -> BadSetting:
    """The error for an output that can't be written."""
    return BadSetting(f"{flag} {path} can't be written: {error.strerror}. Name a place that can be written to.")
