"""The tables that hold a dataset's labels (`labels.csv`, `labels.jsonl`). In: a dataset's files. Out: rows as written.

This module checks only the format of a row; `model_store.datasets.dataset` checks names, labels and cameras.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from model_store.datasets.dataset_files import DatasetFiles
from shared.csv_files import unmarked
from shared.errors import BadDataset, BadImage

CSV_FILE = "labels.csv"
JSONL_FILE = "labels.jsonl"
COLUMNS = ("filename", "labels")
CAMERA_COLUMN = "camera"
LABEL_SEPARATOR = "|"


class LabelRow(NamedTuple):
    """One line of a table, as written."""

    filename: str
    labels: list[str]
    camera: str | None


def read_rows(files: DatasetFiles, table: str) -> Iterator[tuple[int, LabelRow]]:
    """The rows of `table`, CSV_FILE or JSONL_FILE, each with the number of its line.

    Raises:
        BadDataset: the file can't be read, or a line is not in this format; the message names the line.
    """
    location = f"{files.path}/{table}"
    return _csv_rows(files, location) if table == CSV_FILE else _jsonl_rows(files, location)


def _csv_rows(files: DatasetFiles, location: str) -> Iterator[tuple[int, LabelRow]]:
    reader = csv.DictReader(io.StringIO(read_text(files, CSV_FILE), newline=""))
    columns = [name.strip() for name in reader.fieldnames or []]
    if sorted(columns) not in (sorted(COLUMNS), sorted((*COLUMNS, CAMERA_COLUMN))):
        raise BadDataset(
            f"{location} begins with {','.join(columns)!r}, but should begin with {','.join(COLUMNS)!r}, or with "
            f"{','.join((*COLUMNS, CAMERA_COLUMN))!r}: correct the first line."
        )
    reader.fieldnames = columns
    try:
        for row in reader:
            if None in row or None in row.values():
                raise BadDataset(
                    f"{location}, line {reader.line_num}: should be `{','.join(columns)}`; quote names with commas."
                )
            labels = unmarked(row["labels"]).split(LABEL_SEPARATOR)
            yield reader.line_num, LabelRow(unmarked(row["filename"]), labels, row.get(CAMERA_COLUMN))
    except csv.Error as error:
        raise BadDataset(f"{location}, line {reader.line_num}: {error}.") from error


def _jsonl_rows(files: DatasetFiles, location: str) -> Iterator[tuple[int, LabelRow]]:
    # Line by line, as a list of all lines would take three times the file's size in memory.
    for number, line in enumerate(io.StringIO(read_text(files, JSONL_FILE), newline=None), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:  # RecursionError: brackets within brackets
            raise BadDataset(f"{location}, line {number} is not JSON: {error}.") from error
        if not isinstance(row, dict) or sorted(row.keys() - {CAMERA_COLUMN}) != sorted(COLUMNS):
            raise BadDataset(
                f"{location}, line {number}: should be an object with the fields {' and '.join(COLUMNS)}; it may "
                f"have {CAMERA_COLUMN}."
            )
        filename, labels, camera = row["filename"], row["labels"], row.get(CAMERA_COLUMN)
        if isinstance(labels, str):
            labels = labels.split(LABEL_SEPARATOR)
        if not isinstance(filename, str) or not isinstance(labels, list) or not all(isinstance(x, str) for x in labels):
            raise BadDataset(
                f"{location}, line {number}: filename should be a string, and labels a string or a list of strings."
            )
        if camera is not None and not isinstance(camera, str):
            raise BadDataset(
                f"{location}, line {number}: camera {camera!r} should be a string, or null if it isn't known."
            )
        yield number, LabelRow(filename, labels, camera)


def read_text(files: DatasetFiles, name: str) -> str:
    """The text of one of the dataset's files; raises BadDataset if it can't be read or is not UTF-8."""
    try:
        return files.read(name).decode("utf-8-sig")
    except BadImage as error:
        raise BadDataset(f"{files.path}: {error}") from error
    except UnicodeDecodeError as error:
        raise BadDataset(f"{files.path}/{name} is not UTF-8 text: {error}. Save it as UTF-8.") from error
