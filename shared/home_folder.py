"""Resolves paths that begin with `~`."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from shared.errors import BadSetting


def expand_home(path: str | Path, *, name: str) -> Path:
    """Return the path with `~` resolved. `name` is the setting or flag that the path comes from.

    Raises:
        BadSetting: there is no such home folder, e.g. in a container that runs under a user that it does not know.
    """
    try:
        return with_home(Path(path))
    except RuntimeError as error:
        raise BadSetting(
            f"{name} = {str(path)!r} begins with a home folder, and user {os.getuid()} has none: give the whole path, "
            "or set HOME."
        ) from error


def with_home(path: Path) -> Path:
    """Like `Path.expanduser`, but an empty HOME counts as none: it would stand for the root folder.

    Raises:
        RuntimeError: there is no such user or home folder.
    """
    if path.parts[:1] != ("~",) or os.environ.get("HOME") != "":
        return path.expanduser()
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError as error:
        raise RuntimeError(f"user {os.getuid()} has no home folder") from error
    return Path(home, *path.parts[1:])


def usable_path(path: Path) -> Path:
    """The path as it was given, if `with_home` can resolve it.

    Raises:
        ValueError: it can't; says why.
    """
    if not str(path).isprintable():  # among others NUL, and bytes that aren't UTF-8
        raise ValueError("a path must consist of printable characters")
    try:
        with_home(path)
    except RuntimeError:
        user = path.parts[0].removeprefix("~")
        missing = f"there is no user {user!r}" if user else f"user {os.getuid()} has no home folder"
        raise ValueError(f"{missing}; write the whole path") from None
    return path
