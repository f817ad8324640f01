"""The files of a dataset with the labels as written, from class folders or from tables of labels.

In: a dataset's files. Out: LabeledFiles. Names of classes are compared in `label_names`, after all of them are known.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from model_store.bundle.policy import GOOD
from model_store.datasets.class_level import check_class_level
from model_store.datasets.dataset_files import (
    TABLE_SUFFIXES,
    DatasetFiles,
    is_image_name,
    is_table_name,
    wrapping_folders,
)
from model_store.datasets.file_lookup import FileLookup
from model_store.datasets.given_splits import Part, are_splits, part_of
from model_store.datasets.label_names import FOLDER_SEPARATOR
from model_store.datasets.label_tables import CSV_FILE, LabelTable
from model_store.datasets.table_columns import COLUMNS
from shared.errors import BadDataset
from shared.printable import printable
from shared.schemas import NAME_RULE, Name
from shared.system_files import left_out_part

_CAMERA: TypeAdapter[str] = TypeAdapter(Name)
_SHOWN = 3
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class LabeledFile:
    """A file, its labels as written, where they are written, and the split that it is in."""

    name: str
    labels: tuple[str, ...]
    location: str
    camera: str | None = None
    part: Part | None = None


@dataclass(frozen=True)
class LabeledFiles:
    """The labeled files, sorted by name.

    `empty`: the labels of class folders without a file, with their locations. `unlabeled`: images directly in a split.
    `complete`: all labels of each image are stated. `tables`: the tables that were read.
    """

    files: list[LabeledFile]
    empty: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    complete: bool = True
    tables: tuple[str, ...] = ()
    remarks: list[str] = field(default_factory=list)


def read_labeled_files(files: DatasetFiles, *, good_class: str | None = None) -> LabeledFiles:
    """Read which file has which labels. `good_class`: another name of the class `good`.

    Raises:
        BadDataset: a table is wrong, or names files that are not there; or it is unclear what the folders are.
    """
    tables = _tables(files)
    return _from_tables(files, tables, good_class=good_class) if tables else _from_class_folders(files)


def _tables(files: DatasetFiles) -> list[str]:
    """The table at the top, or that of each split.

    Raises:
        BadDataset: several tables lie in one folder, or one in a folder that is no split.
    """
    found = [name for name in files.names if name.count("/") < 2 and is_table_name(name)]
    at_top = [name for name in found if "/" not in name]
    if at_top:
        found = at_top
    folders = [name.rpartition("/")[0] for name in found]
    for folder in folders:
        if folders.count(folder) > 1:
            both = " and ".join(name for name in found if name.rpartition("/")[0] == folder)
            raise BadDataset(f"{files.path}/{files.root}{folder} has both {both}: remove one.")
        if folder and part_of(folder) is None:
            raise BadDataset(
                f"{files.path} has a table of labels in the folder {folder!r}, which is not read there: put one table "
                f"beside the folders, with names such as {folder}/1.jpg, or give the folder {folder!r} as the dataset."
            )
    return found


def _from_tables(files: DatasetFiles, names: Sequence[str], *, good_class: str | None) -> LabeledFiles:
    found: dict[str, LabeledFile] = {}
    empty: set[str] = set()
    remarks: list[str] = []
    for name in names:
        table = LabelTable(files, name, good_class=good_class)
        folder = name.rpartition("/")[0]
        reader = _TableReader(table, FileLookup(files, within=f"{folder}/" if folder else ""), found)
        reader.read(part=part_of(folder) if folder else None)
        empty |= table.classes()
        remarks += [*table.describe(), *reader.describe()]
    ordered = [found[name] for name in sorted(found)]
    if len(names) == 1:
        ordered = _in_split_folders(ordered)
    return LabeledFiles(
        ordered, [((one,), f"{files.path}/{names[0]}") for one in sorted(empty)], tables=tuple(names), remarks=remarks
    )


def _in_split_folders(labeled: list[LabeledFile]) -> list[LabeledFile]:
    """The files with the split of their folder, if all lie in splits, or if a row that says no split lies in one.

    Folders around all of them don't matter. What a row says goes before its folder.
    """
    around = posixpath.commonpath([posixpath.dirname(one.name) for one in labeled]) if labeled else ""
    inside = [one.name.removeprefix(f"{around}/") for one in labeled]
    tops = [_top(name) if "/" in name else "" for name in inside]
    if not are_splits(tops) and not any(one.part for one in labeled):
        return labeled
    return [one if one.part else replace(one, part=part_of(top)) for one, top in zip(labeled, tops, strict=True)]


class _TableReader:
    """Adds the rows of one table to `found`; collects the names that are not there, to tell all at once."""

    def __init__(self, table: LabelTable, lookup: FileLookup, found: dict[str, LabeledFile]) -> None:
        self._table = table
        self._lookup = lookup
        self._found = found
        self._missing: list[tuple[str, str]] = []
        self._left_out: list[str] = []
        self._repeated = 0

    def read(self, *, part: Part | None) -> None:
        """Read all rows; `part` is the split of the table's folder."""
        for location, row in self._table.rows():
            name = self._lookup.find(row.filename)
            if name is None and left_out_part(row.filename.strip().replace("\\", "/")) is not None:
                self._left_out.append(row.filename.strip())
            elif name is None:
                self._missing.append((location, row.filename.strip()))
            else:
                labels = tuple(row.labels)
                camera = _checked_camera(row.camera, location)
                self._add(LabeledFile(name, labels, location, camera, row.part or part))
        if self._missing:
            self._raise_missing()

    def describe(self) -> Iterator[str]:
        """Sentences about files that were found otherwise than written, and about rows that come twice."""
        yield from (f"{self._table.name}: {text}" for text in self._lookup.describe())
        if self._left_out:
            yield (
                f"{self._table.name}: hidden files, and those of the system, are left out, although rows name them: "
                f"{_shown(self._left_out)}"
            )
        if self._repeated:
            yield f"{self._table.name}: rows that repeat an earlier one, and count once: {self._repeated:,}"

    def _add(self, one: LabeledFile) -> None:
        earlier = self._found.setdefault(one.name, one)
        if earlier is one:
            return
        if replace(earlier, location="") != replace(one, location=""):
            raise BadDataset(f"{one.location}: file {one.name!r} is listed twice. Join its labels by `|`.")
        self._repeated += 1

    def _raise_missing(self) -> None:
        location, name = self._missing[0]
        more = len(self._missing) - 1
        others = f" ({more + 1:,} such lines in all.)" if more else ""
        raise BadDataset(
            f"{location}: file {name!r} does not exist. Add it, or remove the line. Names are relative to the "
            f"dataset's folder.{others}"
        )


def _checked_camera(camera: str | None, location: str) -> str | None:
    """A camera's name must be valid in a job too, so that the two can be compared."""
    name = (camera or "").strip()
    try:
        return _CAMERA.validate_python(name) if name else None
    except ValidationError as error:
        raise BadDataset(f"{location}: {name[:80]!r} can't be a camera's name: {NAME_RULE}.") from error


def _from_class_folders(files: DatasetFiles) -> LabeledFiles:
    tops = {name.partition("/")[0] for name in files.names if "/" in name}
    empty = [name for name in files.empty_folders if "/" not in name]
    parts = {top: part_of(top) for top in tops}
    remarks = _unread_tables(files)
    if any(parts.values()):
        with_images = {name.partition("/")[0] for name in files.names if "/" in name and is_image_name(name)}
        _check_splits(files, with_images)
        inside = _class_paths({name: name.partition("/")[2] for name in files.names if parts.get(_top(name))})
        labeled = [(name, parts[_top(name)], path) for name, path in inside.items()]
        empty = sorted({name.partition("/")[2] for name in files.empty_folders if parts.get(_top(name))} - {""})
    elif _is_split_below(files):
        labeled = [(name, part_of(name.split("/")[1]), name) for name in files.names if "/" in name]
    else:
        labeled = [(name, None, name) for name in files.names if "/" in name]
    check_class_level((path for name, _, path in labeled if is_image_name(name)), location=str(files.path))
    classes = {_top(path) for _, _, path in labeled}
    _check_joined({*classes, *empty}, location=str(files.path))
    _check_detection(files, {_top(path) for name, _, path in labeled if is_image_name(name)}, classes)
    return LabeledFiles(
        [LabeledFile(name, _folder_labels(path), _folder(files, path), part=part) for name, part, path in labeled],
        [(_folder_labels(name), _folder(files, name)) for name in empty if name not in classes],
        complete=any(FOLDER_SEPARATOR in name for name in {*classes, *empty}),
        remarks=[*remarks, *_joined_names(classes)],
    )


def _top(path: str) -> str:
    return path.partition("/")[0]


def _folder(files: DatasetFiles, path: str) -> str:
    return f"{files.path}, folder {_top(path)[:_SHOWN_CHARACTERS]!r}"


def _folder_labels(path: str) -> tuple[str, ...]:
    return tuple(_top(path).split(FOLDER_SEPARATOR))


def _check_joined(folders: set[str], *, location: str) -> None:
    """Refuse `C++/`: nobody knows whether its `+` belongs to the name, or joins a label that is missing."""
    for folder in sorted(folders):
        if FOLDER_SEPARATOR in folder and not all(map(str.strip, _folder_labels(folder))):
            raise BadDataset(
                f"{location}: `{FOLDER_SEPARATOR}` joins the labels in a folder's name, and in "
                f"{printable(folder)[:_SHOWN_CHARACTERS]!r} one of them is empty. Give the folder another name."
            )


def _class_paths(inside: dict[str, str]) -> dict[str, str]:
    """The path from the class's folder on of each file in a split, without those that lie directly in it."""
    root = wrapping_folders(list(inside.values()), ())
    paths = {name: path.removeprefix(root) for name, path in inside.items() if path.startswith(root)}
    return {name: path for name, path in paths.items() if "/" in path}


def _check_splits(files: DatasetFiles, tops: set[str]) -> None:
    """Raise unless all folders with images are splits, and hold class folders."""
    splits = sorted(top for top in tops if part_of(top))
    others = sorted(tops - set(splits))
    if splits and others:
        raise BadDataset(
            f"{files.path} has the folders {_shown(splits)} beside {_shown(others)}: it is unclear whether they are "
            f"splits or classes. If {splits[0]!r} is a split, put the class folders into it; if it is a class, give it "
            "another name."
        )
    if splits and not any(name.count("/") > 1 and is_image_name(name) for name in files.names):
        raise BadDataset(
            f"{files.path} has images directly in {_shown(splits)}, which are names of splits, not of classes. Put "
            f"one folder per class into each, such as {splits[0]}/{GOOD}/, or a {CSV_FILE} beside them; if they are "
            "classes, give them other names."
        )


def _is_split_below(files: DatasetFiles) -> bool:
    """Whether each class folder is divided into splits: `good/train/1.jpg`.

    Raises:
        BadDataset: some of the images lie in such splits, and others outside of them.
    """
    images = [name.split("/") for name in files.names if "/" in name and is_image_name(name)]
    outside = ["/".join(parts) for parts in images if len(parts) < 3 or part_of(parts[1]) is None]
    splits = sorted({"/".join(parts[:2]) for parts in images if len(parts) > 2 and part_of(parts[1])})
    if splits and outside:
        lie = "lie" if len(outside) > 1 else "lies"
        raise BadDataset(
            f"{files.path}: {_shown(outside, count=1)} {lie} outside of the splits that other images are in, such as "
            f"{_shown(splits)}: it is unclear whether those are splits. If they are, put every image into one, as "
            f"{_top(outside[0])}/train/; if not, give the folder {splits[0]!r} another name."
        )
    return not outside and are_splits(parts[1] for parts in images)


def _check_detection(files: DatasetFiles, with_images: set[str], classes: set[str]) -> None:
    """Refuse `images/` and `labels/`, as programs for object detection have them: neither is a class."""
    forms = {name.casefold() for name in classes}
    if {"images", "labels"} <= forms and {name.casefold() for name in with_images} == {"images"}:
        raise BadDataset(
            f"{files.path} has the folders images and labels, as datasets of object detection do; Sortline learns the "
            "labels of whole images. Export it for classification: one folder per class, or a "
            f"{CSV_FILE} with the header {','.join(COLUMNS)}."
        )


def _unread_tables(files: DatasetFiles) -> list[str]:
    near = [*(name for name in files.names if "/" not in name), *files.beside_root]
    names = [name for name in near if any(name.lower().endswith(end) for end in TABLE_SUFFIXES)]
    if not names:
        return []
    return [f"tables that are not read: {_shown(names)}. If one holds the labels, call it {CSV_FILE}"]


def _joined_names(classes: set[str]) -> list[str]:
    joined = sorted(name for name in classes if ";" in name or "," in name)
    if not joined:
        return []
    return [
        f"{_shown(joined)}: one label, although its name has `,` or `;`. To join labels in a folder's name, use `+`"
    ]


def _shown(names: Sequence[str], *, count: int = _SHOWN) -> str:
    more = len(names) - count
    return ", ".join(repr(printable(name)) for name in names[:count]) + (f" and {more:,} more" if more > 0 else "")
