"""Datasets for training and evaluation: which images there are, and which labels each has.

In: a folder with a folder per class, or with `labels.csv` (header `filename,labels`; labels joined by `|`,
`good` for none) or `labels.jsonl` (the same two fields; labels may be a list), or a zip of either.
Out: a Dataset. No image is decoded here; `model_store.pixels` does that.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from model_store.dataset_files import DatasetFiles, open_files
from model_store.policy import GOOD
from shared.errors import BadDataset, BadImage

CSV_FILE = "labels.csv"
JSONL_FILE = "labels.jsonl"
HELD_OUT_FILE = "held_out.txt"
COLUMNS = ("filename", "labels")
LABEL_SEPARATOR = "|"
# Only to tell images from the other files of a folder; what an image is, its bytes say.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Sample:
    """One image file and its true labels, sorted. `held_out`: never to be trained or validated on."""

    name: str
    labels: tuple[str, ...]
    held_out: bool = False


@dataclass(frozen=True)
class Dataset:
    """What a dataset says of itself.

    `classes` are sorted, as in the tutorial; `samples` are sorted by name. `unlabelled` are image files
    that the labels file doesn't name, or that lie beside the class folders: not used, and said so.
    """

    files: DatasetFiles
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    unlabelled: tuple[str, ...] = ()

    @property
    def has_several_labels(self) -> bool:
        """Whether any image has more than one label."""
        return any(len(sample.labels) > 1 for sample in self.samples)

    def only(self, samples: Iterable[Sample]) -> Dataset:
        """The same dataset with these samples."""
        return replace(self, samples=tuple(samples))


def load_dataset(path: Path) -> Dataset:
    """Read a dataset's names and labels.

    Raises:
        BadDataset: there is nothing there, the labels file is wrong (says where), or a named file is missing.
    """
    files = open_files(path)
    tables = [name for name in (CSV_FILE, JSONL_FILE) if name in files.names]
    if len(tables) > 1:
        raise BadDataset(f"{path} has both {CSV_FILE} and {JSONL_FILE}: remove one.")
    dataset = _from_table(files, tables[0]) if tables else _from_class_folders(files)
    if not dataset.samples:
        raise BadDataset(
            f"{path} has no labelled images: give one folder per class, or {CSV_FILE} with the header "
            f"{','.join(COLUMNS)}."
        )
    return dataset.only(_marked_held_out(files, dataset.samples))


def check_trainable(samples: Iterable[Sample], classes: Iterable[str], path: Path) -> None:
    """Raise unless every class has two images to learn from, and there are two classes.

    Raises:
        BadDataset: names the class and its number of images.
    """
    counts = count_labels(samples, classes)
    if len(counts) < 2:
        raise BadDataset(f"{path} has the classes {sorted(counts)}: at least two are needed to tell apart.")
    for name, count in counts.items():
        if count < 2:
            raise BadDataset(
                f"{path}: class {name!r} has {count} usable image(s) outside {HELD_OUT_FILE}; at least 2 are needed, "
                "one to train on and one to check with. Add images, or remove the class."
            )


def count_labels(samples: Iterable[Sample], classes: Iterable[str]) -> dict[str, int]:
    """Images per class, in the order of `classes`."""
    counts = Counter(label for sample in samples for label in sample.labels)
    return {name: counts[name] for name in classes}


def _from_class_folders(files: DatasetFiles) -> Dataset:
    samples = []
    for name in files.names:
        folder, _, rest = name.partition("/")
        if rest:
            samples.append(Sample(name, (_checked_label(folder, files.path),)))
    classes = {label for sample in samples for label in sample.labels} | set(files.empty_folders)
    return Dataset(files, tuple(sorted(classes)), tuple(samples), _unlabelled(files, {one.name for one in samples}))


def _from_table(files: DatasetFiles, table: str) -> Dataset:
    where = f"{files.path}/{table}"
    rows = _csv_rows(files, where) if table == CSV_FILE else _jsonl_rows(files, where)
    samples: dict[str, Sample] = {}
    known = set(files.names)
    for line, filename, labels in rows:
        name = PurePosixPath(filename.strip()).as_posix()
        if name not in known:
            raise BadDataset(f"{where}, line {line}: file {name!r} is not there. Add it, or remove the line.")
        if name in samples:
            raise BadDataset(f"{where}, line {line}: file {name!r} is listed twice. Join its labels by `|`.")
        samples[name] = Sample(name, _checked_labels(labels, where=f"{where}, line {line}"))
    classes = sorted({label for sample in samples.values() for label in sample.labels})
    ordered = tuple(samples[name] for name in sorted(samples))
    return Dataset(files, tuple(classes), ordered, _unlabelled(files, samples.keys()))


def _unlabelled(files: DatasetFiles, labelled: Set[str]) -> tuple[str, ...]:
    others = (name for name in files.names if name not in labelled)
    return tuple(name for name in others if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES)


def _csv_rows(files: DatasetFiles, where: str) -> Iterator[tuple[int, str, list[str]]]:
    reader = csv.DictReader(io.StringIO(_text(files, CSV_FILE), newline=""))
    columns = [name.strip() for name in reader.fieldnames or []]
    if sorted(columns) != sorted(COLUMNS):
        raise BadDataset(f"{where} has the columns {columns}, should have {list(COLUMNS)}: correct the first line.")
    reader.fieldnames = columns
    try:
        for row in reader:
            if None in row or None in row.values():
                raise BadDataset(
                    f"{where}, line {reader.line_num}: should be `filename,labels`; quote a comma in a name."
                )
            yield reader.line_num, row["filename"], row["labels"].split(LABEL_SEPARATOR)
    except csv.Error as error:
        raise BadDataset(f"{where}, line {reader.line_num}: {error}.") from error


def _jsonl_rows(files: DatasetFiles, where: str) -> Iterator[tuple[int, str, list[str]]]:
    for number, line in enumerate(_text(files, JSONL_FILE).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise BadDataset(f"{where}, line {number} is not JSON: {error}.") from error
        if not isinstance(row, dict) or sorted(row) != sorted(COLUMNS):
            raise BadDataset(f"{where}, line {number}: should be an object with the fields {list(COLUMNS)}.")
        filename, labels = row["filename"], row["labels"]
        if isinstance(labels, str):
            labels = labels.split(LABEL_SEPARATOR)
        if not isinstance(filename, str) or not isinstance(labels, list) or not all(isinstance(x, str) for x in labels):
            raise BadDataset(f"{where}, line {number}: filename should be text, labels text or a list of texts.")
        yield number, filename, labels


def _checked_labels(labels: list[str], *, where: str) -> tuple[str, ...]:
    cleaned = sorted({_checked_label(label, where) for label in labels})
    if not cleaned:
        raise BadDataset(f"{where}: no label: write `{GOOD}` where no defect applies.")
    if GOOD in cleaned and len(cleaned) > 1:
        raise BadDataset(f"{where}: {cleaned} says `{GOOD}` beside a defect: `{GOOD}` means that none applies.")
    return tuple(cleaned)


def _checked_label(label: str, where: object) -> str:
    name = label.strip()
    if not name or not name.isprintable() or len(name) > 64 or LABEL_SEPARATOR in name:
        raise BadDataset(f"{where}: {label[:80]!r} can't be a label: 1 to 64 printable characters, no `|`.")
    return name


def _marked_held_out(files: DatasetFiles, samples: tuple[Sample, ...]) -> Iterator[Sample]:
    held_out: set[str] = set()
    if HELD_OUT_FILE in files.names:
        lines = (line.partition("#")[0].strip() for line in _text(files, HELD_OUT_FILE).splitlines())
        held_out = {line for line in lines if line}
    if missing := sorted(held_out - {sample.name for sample in samples}):
        raise BadDataset(
            f"{files.path}/{HELD_OUT_FILE} names {missing[0]!r} ({len(missing)} such), which has no label here: "
            "correct it."
        )
    return (replace(sample, held_out=sample.name in held_out) for sample in samples)


def _text(files: DatasetFiles, name: str) -> str:
    try:
        return files.read(name).decode("utf-8-sig")
    except BadImage as error:
        raise BadDataset(f"{files.path}: {error}") from error
    except UnicodeDecodeError as error:
        raise BadDataset(f"{files.path}/{name} is not UTF-8 text: {error}. Save it as UTF-8.") from error
