"""Which column of a table holds what: the names that spreadsheets, annotation tools and competitions give to them.

In: a table's header, or the fields of a JSON line. Out: Columns, or an error that says what to change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from model_store.datasets.comparable import comparable_word
from model_store.datasets.given_splits import Part, part_of
from shared.errors import BadDataset

COLUMNS = ("filename", "labels")
CAMERA_COLUMN = "camera"
WRONG_FIELDS = (
    f"should be an object with the fields {' and '.join(COLUMNS)}; it may have {CAMERA_COLUMN}. filename should be a "
    "string, and labels a string or a list of strings."
)
# As `comparable_word` gives them. Of several names of the file, the first of this list is taken.
_FILE = (
    "filename",
    "file",
    "filepath",
    "imagefilename",
    "imagefile",
    "imagename",
    "imagepath",
    "image",
    "img",
    "imgname",
    "imgpath",
    "fname",
    "path",
    "imageid",
    "id",
    "name",
)
_LABELS = (
    "labels",
    "label",
    "class",
    "classes",
    "classname",
    "classlabel",
    "category",
    "categories",
    "target",
    "tag",
    "tags",
    "choice",
    "choices",
    "defect",
    "defects",
    "labelname",
)
_SPLIT = ("split", "splitname", "datasplit")
# These are the split if they hold names of splits.
_MAYBE_SPLIT = ("subset", "partition", "set", "dataset", "phase", "fold", "usage", "purpose")
_IS = re.compile(r"^\s*is[\s_-]*", re.IGNORECASE)
# The values of columns of 0 and 1, in small letters.
ON, OFF = ("1", "1.0", "true"), ("", "0", "0.0", "false")
# What programs write into a cell that has no value, in small letters. `None` is not among them: people write it where a
# bottle has no defect.
_MISSING = frozenset({"", "nan", "-nan", "null", "<na>", "na", "n/a", "#n/a", "nat"})
# More than any list of classes has. A table of a hundred thousand columns would take minutes.
MAX_COLUMNS = 5_000


class Columns(NamedTuple):
    """The names of the columns, as written. `labels` is None if each class has a column of 0 and 1, `classes`.

    `maybe_split` is the split if it holds names of splits, else a class or not read. `split_flags`: columns of 0 and 1
    that each say whether an image is in a split.
    """

    file: str
    labels: str | None
    camera: str | None
    split: str | None
    classes: tuple[str, ...]
    not_read: tuple[str, ...]
    maybe_split: str | None = None
    split_flags: tuple[tuple[str, Part], ...] = ()


def is_missing(value: object) -> bool:
    """Whether a cell, or a field of a JSON line, holds no value."""
    if isinstance(value, str):
        return value.strip().casefold() in _MISSING
    return value is None or value != value  # JSON's null, and the NaN that Python's json writes


def check_column_count(count: int, *, location: str) -> None:
    """Raise if a table is so wide that it must be something else.

    Raises:
        BadDataset: names the limit.
    """
    if count > MAX_COLUMNS:
        raise BadDataset(
            f"{location}: {count:,} columns, but a table of labels may have {MAX_COLUMNS:,}. Give each image's labels "
            f"in one column, {COLUMNS[1]}, and remove the columns that Sortline doesn't read."
        )


def find_columns(names: Sequence[str], *, location: str, is_json: bool) -> Columns:
    """Find the columns of a table.

    Raises:
        BadDataset: a name comes twice, several columns may hold the labels, or none the files.
    """
    named = [name for name in names if name.strip()]
    if twice := [name for name, count in Counter(named).items() if count > 1]:
        raise BadDataset(f"{location} has two columns called {twice[0][:80]!r}: rename or remove one.")
    by_comparable = {comparable_word(name): name for name in reversed(named)}
    file = _first(_FILE, by_comparable)
    labels = [by_comparable[word] for word in _LABELS if word in by_comparable]
    if file is None:
        raise BadDataset(wrong_header(names, location=location, is_json=is_json))
    if len(labels) > 1 and COLUMNS[1] not in by_comparable:
        raise BadDataset(
            f"{location}: the labels may be in {' or '.join(map(repr, labels))}. Call the one that holds them "
            "`labels`, and remove the others."
        )
    camera = by_comparable.get(CAMERA_COLUMN)
    split, maybe = _first(_SPLIT, by_comparable), _first(_MAYBE_SPLIT, by_comparable)
    maybe = None if split else maybe
    used = {file, camera, split, *labels[:1]}
    flags = tuple((name, part) for name in named if name not in used and (part := _flagged_part(name)))
    others = tuple(name for name in names if name not in {*used, *(name for name, _ in flags)})
    if labels:
        others = tuple(name for name in others if name != maybe)
        return Columns(file, labels[0], camera, split, (), others, maybe, flags)
    return Columns(file, None, camera, split, tuple(name for name in others if name.strip()), (), maybe, flags)


def _first(words: Sequence[str], by_comparable: dict[str, str]) -> str | None:
    return next((by_comparable[word] for word in words if word in by_comparable), None)


def _flagged_part(name: str) -> Part | None:
    """The split that a column such as `test` or `is_valid` stands for."""
    return part_of(name) or part_of(_IS.sub("", name))


def wrong_header(names: Sequence[str], *, location: str, is_json: bool) -> str:
    """What to say of a table whose columns are not known."""
    if is_json:
        return f"{location}: {WRONG_FIELDS}"
    shown = ",".join(names)[:200]
    return (
        f"{location} begins with {shown!r}, but should begin with {','.join(COLUMNS)!r}, or with "
        f"{','.join((*COLUMNS, CAMERA_COLUMN))!r}: correct the first line, or add it if the table has none."
    )
