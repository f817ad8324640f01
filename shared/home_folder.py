"""Resolves paths that begin with `~`."""

from __future__ import annotations

import os
from pathlib import Path

from shared.errors import BadSetting


def expand_home(path: str | Path, *, name: str) -> Path:
    """Return the path with `~` resolved. `name` is the setting or flag that the path comes from.

    Raises:
        BadSetting: there is no such home folder, e.g. in a container that runs under a user that it does not know.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BadSetting(
            f"{name} = {str(path)!r} begins with a home folder, and user {os.getuid()} has none: give the whole path, "
            "or set HOME."
        ) from error
