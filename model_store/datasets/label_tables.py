"""The tables that hold a dataset's labels (`labels.csv`, `labels.jsonl`, `_classes.csv`).

In: a dataset's files. Out: rows as written. Tables are read as people and tools make them: separated by commas,
semicolons or tabs, in UTF-8 or UTF-16, under the columns' usual names (`table_columns`), with the labels of an image in
one cell (`label_cells`) or a column per class.

This module checks the format of a row; `model_store.datasets.labeled_files` checks names, labels and cameras.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from model_store.bundle.policy import GOOD
from model_store.datasets.comparable import comparable
from model_store.datasets.dataset_files import DatasetFiles
from model_store.datasets.given_splits import Part
from model_store.datasets.label_cells import LabelCells, check_single
from model_store.datasets.label_names import is_like_good
from model_store.datasets.split_cells import SplitCells
from model_store.datasets.table_columns import (
    COLUMNS,
    OFF,
    ON,
    WRONG_FIELDS,
    Columns,
    check_column_count,
    find_columns,
    is_missing,
    wrong_header,
)
from shared.csv_files import unmarked
from shared.errors import BadDataset, BadImage
from shared.printable import printable

CSV_FILE = "labels.csv"
JSONL_FILE = "labels.jsonl"

_SEPARATORS = (",", ";", "\t")
_SEPARATOR_LINE = "sep="  # a first line that spreadsheets write for themselves
_HEADER_CHARACTERS = 500_000
_UNLABELED = (
    f"without a label (an empty cell, `NaN` or the like), not used. Write `{GOOD}` where no defect applies, and rename "
    "a label that is called so"
)
_NOTHING_APPLIES = f"without a 1, although a column says which images are `{GOOD}`: without a label, not used"


class LabelRow(NamedTuple):
    """One line of a table, as written, with one label or more."""

    filename: str
    labels: list[str]
    camera: str | None = None
    part: Part | None = None


class LabelTable:
    """A table among a dataset's files. What is worth telling is known when all rows have been read."""

    def __init__(self, files: DatasetFiles, name: str, *, good_class: str | None = None) -> None:
        """`good_class`: another name of the class `good`."""
        self.name = name
        self.location = f"{files.path}/{files.root}{name}"
        self._files = files
        self._is_json = PurePosixPath(name).suffix.casefold() == ".jsonl"
        self._cells = LabelCells()
        self._splits = SplitCells()
        self._good = comparable(good_class or GOOD)
        self._columns: dict[tuple[str, ...], Columns] = {}
        self._names: set[str] = set()
        self._good_columns: dict[Columns, bool] = {}
        self._counts: Counter[str] = Counter()

    def rows(self) -> Iterator[tuple[str, LabelRow]]:
        """The rows with labels, each with its location, for messages. Those without are counted.

        Raises:
            BadDataset: the file can't be read, or a line is not in this format; the message names the line.
        """
        for number, fields in self._json_lines() if self._is_json else self._csv_lines():
            location = f"{self.location}, line {number}"
            if (row := self._row(fields, location)) is not None:
                yield location, row
        for columns in self._columns.values():
            self._splits.check(columns, location=self.location)

    def describe(self) -> Iterable[str]:
        """Sentences about how the table was read."""
        for what, count in self._cells.joined_by.items():
            yield f"{self.name}: labels {what} are read as several labels ({count:,} {'row' if count == 1 else 'rows'})"
        if ignored := sorted({name for columns in self._columns.values() for name in self._not_read(columns)}):
            shown = ", ".join(repr(name) if name.strip() else "one without a name" for name in ignored[:10])
            yield f"{self.name}: columns that are not read: {printable(shown)}"
        for what, count in self._counts.items():
            yield f"{self.name}: {count:,} {'row' if count == 1 else 'rows'} {what}"

    def _not_read(self, columns: Columns) -> tuple[str, ...]:
        maybe = columns.maybe_split
        unread = columns.labels is not None and maybe is not None and not self._splits.is_split(maybe)
        return (*columns.not_read, maybe) if unread and maybe else columns.not_read

    def _csv_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        text, skipped = self._csv_text()
        header, separator = _header(text, location=self.location)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        try:
            next(reader, None)
            self._columns_of(tuple(header))
            for cells in reader:
                number = reader.line_num + skipped
                if not any(cell.strip() for cell in cells):
                    if cells:  # a spreadsheet's line of commas; an empty line is nothing to tell
                        self._counts["without anything, skipped"] += 1
                    continue
                while len(cells) > len(header) and not cells[-1].strip():
                    cells.pop()
                if len(cells) != len(header):
                    raise BadDataset(
                        f"{self.location}, line {number}: should be `{separator.join(header)}`; quote names with "
                        f"{'commas' if separator == ',' else f'`{separator}`'}."
                    )
                yield number, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise BadDataset(f"{self.location}, line {reader.line_num + skipped}: {error}.") from error

    def _csv_text(self) -> tuple[str, int]:
        """The text, and how many lines in front of the header were left out."""
        text = read_text(self._files, self.name)
        first, _, rest = text.partition("\n")
        return (rest, 1) if first.strip().casefold().startswith(_SEPARATOR_LINE) else (text, 0)

    def _json_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        # Line by line, as a list of all lines would take three times the file's size in memory.
        for number, line in enumerate(io.StringIO(read_text(self._files, self.name), newline=None), start=1):
            if not line.strip():
                continue
            try:
                row: Any = json.loads(line, object_pairs_hook=_without_repeats)
            except (ValueError, RecursionError) as error:  # RecursionError: brackets within brackets
                raise BadDataset(f"{self.location}, line {number} can't be read as JSON: {error}.") from error
            if not isinstance(row, dict):
                raise BadDataset(f"{self.location}, line {number}: {WRONG_FIELDS}")
            yield number, row

    def _columns_of(self, names: tuple[str, ...], *, location: str = "") -> Columns:
        """The columns of a header, or of the fields of a JSON line, most of which have the same."""
        if names not in self._columns:
            self._names.update(names)
            check_column_count(len(self._names), location=location or self.location)
            self._columns[names] = find_columns(names, location=location or self.location, is_json=self._is_json)
        return self._columns[names]

    def _row(self, fields: Mapping[str, Any], location: str) -> LabelRow | None:
        """A row; None if it has no label."""
        columns = self._columns_of(tuple(fields), location=location)
        filename, camera = fields[columns.file], fields[columns.camera] if columns.camera else None
        camera = None if is_missing(camera) else camera
        if not isinstance(filename, str):
            raise BadDataset(f"{location}: {WRONG_FIELDS}")
        if camera is not None and not isinstance(camera, str):
            raise BadDataset(f"{location}: camera {camera!r} should be a string, or null if it isn't known.")
        part = self._splits.part(fields, columns, location=location)
        if columns.labels is None:
            labels = self._labels_by_class(fields, columns, location=location)
        else:
            labels = self._labels(fields[columns.labels], location=location)
        return LabelRow(unmarked(filename), labels, camera, part) if labels else None

    def _labels(self, value: object, *, location: str) -> list[str]:
        """The labels of a row with all of them in one cell; none if there are none."""
        labels = [] if is_missing(value) else self._listed(value, location=location)
        missing = [label for label in labels if label.strip() and is_missing(label)]
        if not labels or missing == labels:
            self._counts[_UNLABELED] += 1
            return []
        if missing:
            raise BadDataset(
                f"{location}: {missing[0]!r} beside other labels stands for a value that is missing. Remove it, or "
                "rename the label."
            )
        return labels

    def _listed(self, value: object, *, location: str) -> list[str]:
        if isinstance(value, str):
            return self._cells.split(unmarked(value), location=location) or [""]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise BadDataset(f"{location}: filename should be a string, and labels a string or a list of strings.")
        check_single(value, location=location)
        return value or [""]

    def _labels_by_class(self, fields: Mapping[str, Any], columns: Columns, *, location: str) -> list[str]:
        """The labels of a row with a column per class; none if all are 0, those of good bottles too."""
        names = [name for name in columns.classes if name != columns.maybe_split or not self._splits.is_split(name)]
        flags = {name: str(fields[name]).strip().casefold() for name in names}
        if any(flags.values()) and all(is_missing(fields[name]) for name in names):  # cells that are blank are 0
            self._counts[_UNLABELED] += 1
            return []
        if not any(flag in ON or flag in OFF for flag in flags.values()):
            where = location if self._is_json else self.location
            raise BadDataset(wrong_header(tuple(fields), location=where, is_json=self._is_json))
        if odd := [(name, flag) for name, flag in flags.items() if flag not in (*ON, *OFF)]:
            raise BadDataset(
                f"{location}: the column {odd[0][0][:80]!r} has {odd[0][1][:80]!r}, but the columns of classes hold 0 "
                "or 1. Correct it, or remove the column. If one column holds the labels, call it `labels`."
            )
        found = [name for name, flag in flags.items() if flag in ON]
        if found:
            return found
        if self._has_good_column(columns):
            self._counts[_NOTHING_APPLIES] += 1
            return []
        self._counts[f"without a 1, read as `{GOOD}`"] += 1
        return [GOOD]

    def _has_good_column(self, columns: Columns) -> bool:
        if columns not in self._good_columns:
            self._good_columns[columns] = any(
                comparable(name) in (GOOD, self._good) or is_like_good(name) for name in columns.classes
            )
        return self._good_columns[columns]

    def classes(self) -> set[str]:
        """The columns of classes, used or not."""
        names = {name for columns in self._columns.values() for name in columns.classes}
        return {name.strip() for name in names if not self._splits.is_split(name)}


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a JSON object. Of two with one name, json would take the last without a word."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the field {twice[:80]!r} twice: remove one")
    return fields


def _header(text: str, *, location: str) -> tuple[list[str], str]:
    """The names of the columns, and what separates them: the separator that gives a header which can be read.

    Raises:
        BadDataset: it is too long.
    """
    if len(text) > _HEADER_CHARACTERS and "\n" not in text[:_HEADER_CHARACTERS]:
        raise BadDataset(
            f"{location}: the first line has more than {_HEADER_CHARACTERS:,} characters, so it is no header of a "
            f"table of labels. It should be {','.join(COLUMNS)!r}."
        )
    found: list[tuple[list[str], str]] = []
    for separator in _SEPARATORS:
        lines = io.StringIO(text[:_HEADER_CHARACTERS], newline="")
        try:
            cells = next(
                csv.reader(lines, delimiter=separator, skipinitialspace=True),
                [],
            )
        except csv.Error:
            continue
        found.append(([cell.strip() for cell in cells], separator))
    return max(found, key=lambda one: len(one[0]), default=([], ","))


def read_text(files: DatasetFiles, name: str) -> str:
    """The text of one of the dataset's files; raises BadDataset if it can't be read, or is neither UTF-8 nor UTF-16."""
    try:
        data = files.read(name)
    except BadImage as error:
        raise BadDataset(f"{files.path}: {error}") from error
    is_utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadDataset(f"{files.path}/{name} is not UTF-8 text: {error}. Save it as UTF-8.") from error
