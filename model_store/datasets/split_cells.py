"""Which split a table's row is in: by a column of words, or by columns of 0 and 1 such as `is_valid`.

A column such as `set` or `fold` is the split if it holds only words such as train and test. A column that holds only
these, but isn't known, is refused: its images for testing would be trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_store.datasets.given_splits import Part, part_of
from model_store.datasets.table_columns import OFF, ON, Columns, is_missing
from shared.errors import BadDataset


class SplitCells:
    """Reads the splits of one table's rows."""

    def __init__(self) -> None:
        self._words: dict[str, set[Part]] = {}  # by column that need not be the split: the splits that it names
        self._others: dict[str, str] = {}  # the first value of each such column that names none

    def part(self, fields: Mapping[str, Any], columns: Columns, *, location: str) -> Part | None:
        """The split of a row; None if the table doesn't say.

        Raises:
            BadDataset: a cell can't be read, or two of them differ.
        """
        for name in columns.not_read:
            self._note(name, fields[name])
        parts = {self._flagged(fields, columns, location=location)}
        if columns.split:
            parts.add(_part(fields[columns.split], location=location))
        elif columns.maybe_split:
            parts.add(self._note(columns.maybe_split, fields[columns.maybe_split]))
        known = sorted(part for part in parts if part)
        if len(known) > 1:
            raise BadDataset(f"{location}: is in two splits, {known[0]} and {known[1]}: correct one of its columns.")
        return known[0] if known else None

    def is_split(self, name: str) -> bool:
        """Whether a column that need not be the split names splits."""
        return bool(self._words.get(name))

    def check(self, columns: Columns, *, location: str) -> None:
        """Raise if a column that need not be the split can't be told from one; all rows have been read.

        Raises:
            BadDataset: names the column, and says what to change.
        """
        name = columns.maybe_split or ""
        if self.is_split(name) and name in self._others:
            raise BadDataset(
                f"{location}: the column {name[:80]!r} has {self._others[name][:80]!r} beside names of splits such as "
                "train and test. Write train, valid or test into all of its cells, or rename it if it is no split."
            )
        for name in () if columns.split else columns.not_read:
            if len(self._words.get(name, ())) > 1 and name not in self._others:
                raise BadDataset(
                    f"{location}: the column {name[:80]!r} holds names of splits, but isn't read. Call it `split`, or "
                    "remove it."
                )

    def _note(self, name: str, value: object) -> Part | None:
        word = str(value).strip() if isinstance(value, str | int | float) else ""
        if is_missing(word):
            return None
        part = part_of(word)
        if part is None:
            self._others.setdefault(name, word)
        else:
            self._words.setdefault(name, set()).add(part)
        return part

    def _flagged(self, fields: Mapping[str, Any], columns: Columns, *, location: str) -> Part | None:
        flags: dict[Part, bool] = {}
        for name, part in columns.split_flags:
            flag = "" if is_missing(fields[name]) else str(fields[name]).strip().casefold()
            if flag not in (*ON, *OFF):
                raise BadDataset(
                    f"{location}: the column {name[:80]!r} has {flag[:80]!r}, but should say by 0 or 1 whether the "
                    f"image is for {part}. Correct it, or rename the column."
                )
            if flag:
                flags[part] = flags.get(part, False) or flag in ON
        chosen = sorted(part for part, is_on in flags.items() if is_on)
        if len(chosen) > 1:
            raise BadDataset(f"{location}: is in two splits, {chosen[0]} and {chosen[1]}: correct one of its columns.")
        if chosen or not flags:
            return chosen[0] if chosen else None
        return "test" if "train" in flags else "train"  # what is not for training is never trained on


def _part(value: object, *, location: str) -> Part | None:
    word = value.strip() if isinstance(value, str) else ""
    if is_missing(word):
        return None
    if (part := part_of(word)) is None:
        raise BadDataset(f"{location}: {word[:80]!r} is no split: write train, valid or test.")
    return part
