"""Checks that an output file or folder can be written. Commands call this before any long work, not after it.

In: the path that a flag or setting names. Out: nothing, or BadSetting.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from shared.errors import BadSetting

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def check_output_files(paths: Mapping[str, Path | None], *, inputs: Iterable[Path] = ()) -> None:
    """Raise if one of the files, by flag, can't be written, or would replace another one that the user needs.

    An existing file keeps its content; a new one is not left behind. An existing image is refused: with
    `--out *.jpg` the shell puts the user's first image there. Only `--grid` writes an image itself.

    Args:
        paths: None is not asked for.
        inputs: the files that the command reads; they need not exist.

    Raises:
        BadSetting: names the flag, the path and the reason.
    """
    seen: dict[Path, str] = {}
    for flag, path in paths.items():
        if path is None:
            continue
        if str(path) == "-":
            raise BadSetting(f"{flag} - is no file. Name one; /dev/stdout is standard output.")
        try:
            _try_to_write(path)
        except OSError as error:
            raise unwritable_error(path, error, flag=flag) from error
        if _is_image(path) and flag != "--grid":
            raise BadSetting(f"{flag} {path} is an image, which would be overwritten. Name another file.")
        if _is_among(path, inputs):
            raise BadSetting(f"{flag} {path} is read by this command, and would be overwritten. Name another file.")
        if (other := seen.setdefault(path.resolve(), flag)) != flag:
            raise BadSetting(f"{other} and {flag} name the same file, {path}. Name two.")


def _try_to_write(path: Path) -> None:
    target = Path(os.path.realpath(path))  # unlinking a link to a new file would leave the file and remove the link
    existed = target.exists()
    if existed and not target.is_file() and not target.is_dir():
        return  # a pipe would wait for a reader, or end when it is closed
    target.open("ab").close()
    if not existed:
        target.unlink()


def _is_among(path: Path, inputs: Iterable[Path]) -> bool:
    """Whether the file is one of `inputs`, under this name or another. A file that does not exist is none of them."""
    return path.exists() and any(os.path.exists(each) and path.samefile(each) for each in inputs)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file()


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
