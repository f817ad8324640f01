"""Checks that an output file or folder can be written, and replaces a file as a whole.

Commands call the checks before any long work, not after it. In: the path that a flag or setting names. Out: nothing, or
BadSetting.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
import zipfile
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from shared.errors import BadSetting
from shared.file_kind import FileKind, kind_of

_IMAGE = "an image"
_ARCHIVE = "a zip archive"
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def check_output_files(
    paths: Mapping[str, Path | None],
    *,
    inputs: Iterable[Path] = (),
    image_flags: Container[str] = (),
    archive_flags: Container[str] = (),
) -> None:
    """Raise if one of the files, by flag, can't be written, or would replace another one that the user needs.

    An existing file keeps its content; a new one is not left behind. An existing image or zip archive is refused, also
    if the command would only find it in a folder: only the flags below make such files, and with `--out *.jpg` the
    shell puts the user's first image there.

    Args:
        paths: None is not asked for.
        inputs: the files that the command reads; they need not exist.
        image_flags: the flags whose file is itself an image, and may replace one.
        archive_flags: the flags whose file is itself an archive, and may replace the one that is there.

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
        precious = _image_or_archive(path)
        if precious and flag not in (image_flags if precious == _IMAGE else archive_flags):
            raise BadSetting(f"{flag} {path} is {precious}, which would be overwritten. Name another file.")
        if _is_among(path, inputs):
            raise BadSetting(f"{flag} {path} is read by this command, and would be overwritten. Name another file.")
        if (other := seen.setdefault(path.resolve(), flag)) != flag:
            raise BadSetting(f"{other} and {flag} name the same file, {path}. Name two.")


def _try_to_write(path: Path) -> None:
    kind = kind_of(path)
    if kind is FileKind.OTHER:  # a pipe would wait for a reader, or end when it is closed
        return
    if kind is not FileKind.MISSING:
        path.open("ab").close()
        return
    target = Path(os.path.realpath(path))  # unlinking a link to a new file would leave the file and remove the link
    target.open("ab").close()
    target.unlink()


def _is_among(path: Path, inputs: Iterable[Path]) -> bool:
    """Whether the file is one of `inputs`, under this name or another. A file that does not exist is none of them."""
    return path.exists() and any(os.path.exists(each) and path.samefile(each) for each in inputs)


def _image_or_archive(path: Path) -> str | None:
    """Which of the two this existing file is; None if it is neither."""
    if not path.is_file():
        return None
    suffix = path.suffix.lower()
    if suffix == ".zip" or zipfile.is_zipfile(path):
        return _ARCHIVE
    return _IMAGE if suffix in _IMAGE_SUFFIXES else None


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


def replace_file(path: Path, data: bytes) -> None:
    """Write the file completely or not at all. A link stays a link, and an existing file keeps its permissions.

    Raises:
        OSError: it can't be written, or is there and is no regular file.
    """
    target = Path(os.path.realpath(path))
    kind = kind_of(target)
    if kind in (FileKind.FOLDER, FileKind.OTHER):  # a device such as /dev/null would be replaced by a file
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    aside = target.with_name(f".{target.name}-{secrets.token_hex(8)}")
    # Not by `tempfile`, whose files only their owner may read.
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if kind is FileKind.FILE:
                os.fchmod(descriptor, target.stat().st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(descriptor)  # otherwise the name may reach the disk before the content does
        os.replace(aside, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise


def unwritable_error(path: Path, error: OSError, *, flag: str) -> BadSetting:
    """The error for an output that can't be written."""
    return BadSetting(f"{flag} {path} can't be written: {error.strerror}. Name a place that can be written to.")
