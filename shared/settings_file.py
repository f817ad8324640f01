"""The settings file: where it is, and what it sets.

Called by `settings`, which translates the errors, and by a worker's parent, which has no memory for `settings`.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from shared.errors import BadSetting
from shared.file_kind import FileKind, kind_of
from shared.regular_files import read_regular

CONFIG_VARIABLE = "SORTLINE_CONFIG"
_MAX_BYTES = 10_000_000


def config_file() -> Path:
    """The settings file: `$SORTLINE_CONFIG` if it is set, else `sortline.toml` in the working directory."""
    return Path(os.environ.get(CONFIG_VARIABLE, "sortline.toml"))


def check_config_file() -> None:
    """Raise if the settings file is something else than a file.

    Raises:
        BadSetting: it is a folder, or the variable names something that is no file.
        OSError: it can't be told what it is.
    """
    path = config_file()
    kind = kind_of(path)
    if CONFIG_VARIABLE in os.environ and kind is not FileKind.FILE:
        raise BadSetting(f"SORTLINE_CONFIG names {path}, which is not a file: create it, or unset the variable.")
    if kind is FileKind.FOLDER:
        raise BadSetting(
            f"{path} is a folder, not a settings file: remove it. Docker creates such a folder if a file that is to be "
            "mounted does not exist."
        )


def file_values() -> dict[str, Any]:
    """The settings in the file, by name; none if there is no file.

    Raises:
        OSError, UnicodeDecodeError, tomllib.TOMLDecodeError: it can't be read, or is not valid TOML.
    """
    path = config_file()
    if kind_of(path) is FileKind.MISSING and not path.is_symlink():  # a link to nothing is an error
        return {}
    return values_of(path)


def values_of(file: Path) -> dict[str, Any]:
    """The settings in a settings file, by name.

    Raises:
        OSError, UnicodeDecodeError, tomllib.TOMLDecodeError: it can't be read, or is not valid TOML.
    """
    # Editors on Windows begin a file with a byte order mark, and end lines with CRLF.
    return tomllib.loads(read_regular(file, max_bytes=_MAX_BYTES).decode("utf-8-sig").replace("\r\n", "\n"))
