"""Keeps a reader's position in a small file: the last entry of each line that was handled."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from producer.streams.notices import Notice, NoticeKind, OnNotice
from shared.errors import BadSetting
from shared.schemas import is_name

_ENTRY_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")


class PositionFile:
    """Reads and writes the file. Each write replaces the whole file, so it has either the old position or the new one.

    The file is not synced to the disk, which would take milliseconds for each result. After a power cut it may have an
    older position, or be empty.
    """

    def __init__(self, path: Path, on_notice: OnNotice) -> None:
        self._path = path
        self._on_notice = on_notice
        self._is_reported = False

    def load(self) -> dict[str, str]:
        """Return the position; it is empty if the file does not exist yet, or is empty.

        Raises:
            BadSetting: the file can't be read or written, or is not a position file.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            text = None
        except (OSError, UnicodeDecodeError) as error:
            raise BadSetting(f"the position file {self._path} can't be read: {error}. Name another file.") from error
        position = {} if not text else checked_position(_parse(text, self._path), where=str(self._path))
        if text == "":
            self._on_notice(Notice(NoticeKind.POSITION, f"{self._path} is empty: reading begins with new results."))
        try:
            self._write(position)
        except OSError as error:
            raise BadSetting(
                f"the position file {self._path} can't be written: {error.strerror}. Name a file in a folder that "
                "exists and that you may write to."
            ) from error
        return position

    def save(self, position: Mapping[str, str]) -> None:
        """Write the position. If that fails, e.g. because the disk is full, the first failure is reported."""
        try:
            self._write(position)
        except OSError as error:
            if not self._is_reported:
                text = f"the position file {self._path} can't be written ({error.strerror}): a restart repeats results."
                self._on_notice(Notice(NoticeKind.POSITION, text))
            self._is_reported = True
        else:
            self._is_reported = False

    def _write(self, position: Mapping[str, str]) -> None:
        aside = self._path.with_name(f"{self._path.name}.new")
        aside.write_text(json.dumps(position), encoding="utf-8")
        os.replace(aside, self._path)


def checked_position(position: object, *, where: str) -> dict[str, str]:
    """Return `position` if it is a valid one. `where` says where it comes from.

    Raises:
        BadSetting: it is not a mapping of line names to entry ids.
    """
    if isinstance(position, Mapping) and all(
        isinstance(line, str) and is_name(line) and isinstance(at, str) and _ENTRY_ID.fullmatch(at)
        for line, at in position.items()
    ):
        return dict(position)
    raise BadSetting(
        f"{where}: {position!r:.200} is not a position, which maps lines to entry ids, e.g. {{'line-1': '1700-0'}}."
    )


def _parse(text: str, path: Path) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadSetting(f"{path} is not a position file ({error}): delete it, or name another file.") from error
