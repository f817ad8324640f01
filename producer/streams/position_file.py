"""Keeps a reader's position in a small file: the last entry of each line that was handled."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from producer.streams.notices import Notice, NoticeKind, OnNotice
from shared.errors import BadSetting
from shared.regular_files import read_regular_text
from shared.schemas import is_name

_ENTRY_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")
_GREATEST_PART = 2**64 - 1
_MAX_BYTES = 10_000_000  # of the file; a line takes about 100


class PositionFile:
    """Reads and writes the file. Each write replaces the whole file, so it has either the old position or the new one.

    The file is not synced to the disk, which would take milliseconds for each result. After a power cut it may have an
    older position, or be empty or full of zero bytes.
    """

    def __init__(self, path: Path, on_notice: OnNotice) -> None:
        self._path = path
        self._on_notice = on_notice
        self._is_reported = False
        self._written: dict[str, str] | None = None

    def load(self) -> dict[str, str]:
        """Return the position; it is empty if the file does not exist yet, or has no content.

        Raises:
            BadSetting: the file can't be read or written, or is not a position file.
        """
        try:
            text = read_regular_text(self._path, max_bytes=_MAX_BYTES).strip("\0")
        except FileNotFoundError:
            text = None
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a path with a zero byte
            raise BadSetting(f"the position file {self._path} can't be read: {error}. Name another file.") from error
        position = {} if not text else checked_position(_parse(text, self._path), where=str(self._path))
        if text == "":
            self._on_notice(Notice(NoticeKind.POSITION, f"{self._path} is empty: reading begins with new results."))
        try:
            self._write(position)
        except OSError as error:
            raise BadSetting(
                f"the position file {self._path} can't be written: {error.strerror}. Name a file in a folder that "
                "exists, that you may write to, and that has room."
            ) from error
        return position

    def save(self, position: dict[str, str]) -> None:
        """Write the position if it is a new one. Of failures, e.g. because the disk is full, the first is reported."""
        if position == self._written:
            return
        try:
            self._write(position)
        except OSError as error:
            if not self._is_reported:
                text = f"the position file {self._path} can't be written ({error.strerror}): a restart repeats results."
                self._on_notice(Notice(NoticeKind.POSITION, text))
            self._is_reported = True
        else:
            self._is_reported = False

    def _write(self, position: dict[str, str]) -> None:
        aside = self._path.with_name(f"{self._path.name}.new")
        aside.write_text(json.dumps(position), encoding="utf-8")
        os.replace(aside, self._path)
        self._written = position


def checked_position(position: object, *, where: str) -> dict[str, str]:
    """Return `position` if it is a valid one. `where` says where it comes from.

    Raises:
        BadSetting: it is not a mapping of line names to entry ids.
    """
    if isinstance(position, Mapping) and all(
        isinstance(line, str) and is_name(line) and isinstance(at, str) and _is_entry_id(at)
        for line, at in position.items()
    ):
        return dict(position)
    raise BadSetting(
        f"{where}: {position!r:.200} is not a position, which maps lines to entry ids, e.g. {{'line-1': '1700-0'}}."
    )


def _is_entry_id(text: str) -> bool:
    return _ENTRY_ID.fullmatch(text) is not None and max(map(int, text.split("-"))) <= _GREATEST_PART


def _parse(text: str, path: Path) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets within brackets
        raise BadSetting(f"{path} is not a position file ({error}): delete it, or name another file.") from error
