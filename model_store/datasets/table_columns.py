"""Which column of a table holds what: the names that spreadsheets, annotation tools and competitions give to them.

In: a table's header, or the fields of a JSON line. Out: Columns, or an error that says what to change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from model_store.datasets.comparable import comparable_word
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
_SPLIT = ("split", "subset", "partition")


class Columns(NamedTuple):
    """The names of the columns, as written. `labels` is None if each class has a column of 0 and 1, `classes`."""

    file: str
    labels: str | None
    camera: str | None
    split: str | None
    classes: tuple[str, ...]
    not_read: tuple[str, ...]


def find_columns(names: Sequence[str], *, location: str, is_json: bool) -> Columns:
    """Find the columns of a table.

    Raises:
        BadDataset: a name comes twice, several columns may hold the labels, or none the files.
    """
    named = [name for name in names if name.strip()]
    if twice := [name for name, count in Counter(named).items() if count > 1]:
        raise BadDataset(f"{location} has two columns called {twice[0][:80]!r}: rename or remove one.")
    by_comparable = {comparable_word(name): name for name in reversed(named)}
    file = next((by_comparable[word] for word in _FILE if word in by_comparable), None)
    labels = [by_comparable[word] for word in _LABELS if word in by_comparable]
    if file is None:
        raise BadDataset(wrong_header(names, location=location, is_json=is_json))
    if len(labels) > 1 and COLUMNS[1] not in by_comparable:
        raise BadDataset(
            f"{location}: the labels may be in {' or '.join(map(repr, labels))}. Call the one that holds them "
            "`labels`, and remove the others."
        )
    camera = by_comparable.get(CAMERA_COLUMN)
    split = next((by_comparable[word] for word in _SPLIT if word in by_comparable), None)
    others = tuple(name for name in names if name not in {file, camera, split, *labels[:1]})
    if labels:
        return Columns(file, labels[0], camera, split, (), others)
    return Columns(file, None, camera, split, tuple(name for name in others if name.strip()), ())


def wrong_header(names: Sequence[str], *, location: str, is_json: bool) -> str:
    """What to say of a table whose columns are not known."""
    if is_json:
        return f"{location}: {WRONG_FIELDS}"
    shown = ",".join(names)[:200]
    return (
        f"{location} begins with {shown!r}, but should begin with {','.join(COLUMNS)!r}, or with "
        f"{','.join((*COLUMNS, CAMERA_COLUMN))!r}: correct the first line, or add it if the table has none."
    )
