"""Datasets for training and evaluation: their images and the labels of each image.

In: a folder with a folder per class, or with `labels.csv` (header `filename,labels`; labels joined by `|`,
`good` for none) or `labels.jsonl` (the same two fields; labels may be a list), or a zip of either.
Out: a Dataset. No image is decoded here; `model_store.datasets.image_loading` does that.

A third column or field, `camera`, may name the camera that took the image.

Complete and incomplete labels: a table states all labels of its images. Class folders do too if one of their names
joins labels by `+`, as `no cap+disfigured` does, because then the author sorted every bottle by all its labels. Without
such a folder, a bottle in `no cap` lacks its cap, but may be disfigured too. A `multi` model must not learn from its
image that the bottle is not disfigured; `Dataset.known_labels` says which labels are known. To state that no other
label applies, write a labels.csv.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter, ValidationError

from model_store.bundle.policy import GOOD, Mode
from model_store.datasets.dataset_files import DatasetFiles, open_files
from model_store.datasets.label_tables import COLUMNS, CSV_FILE, JSONL_FILE, LABEL_SEPARATOR, read_rows, read_text
from shared.errors import BadDataset
from shared.printable import printable
from shared.schemas import NAME_RULE, Name

HELD_OUT_FILE = "held_out.txt"
FOLDER_SEPARATOR = "+"
# Only used to tell images from other files in a folder; the format of an image is detected from its bytes.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_CAMERA: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True)
class Sample:
    """One image file, its true labels, sorted, and the camera that took it, if the dataset names it.

    `held_out`: must never be used for training or validation.
    """

    name: str
    labels: tuple[str, ...]
    held_out: bool = False
    camera: str | None = None


@dataclass(frozen=True)
class Dataset:
    """The classes and labeled samples of a dataset.

    `classes` are sorted; `samples` are sorted by name. `unlabelled` are the `printable` names of image files that the
    labels file doesn't name, or that lie outside the class folders: they are reported, but not used. `complete`: every
    label that applies to an image is stated; otherwise labels that are not stated may apply too.
    """

    files: DatasetFiles
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    unlabelled: tuple[str, ...] = ()
    complete: bool = True

    def classes_for(self, mode: Mode) -> tuple[str, ...]:
        """The classes of a model of this mode, sorted: `multi` always has `good`, which means: no defect applies."""
        return tuple(sorted({*self.classes, GOOD})) if mode == "multi" else self.classes

    def known_labels(self, sample: Sample, classes: Iterable[str] | None = None) -> tuple[str, ...]:
        """The labels among `classes` for which it is known whether they apply to the sample, in the order of `classes`.

        `classes` are by default the dataset's classes and `good`, sorted. All are known in a complete dataset, and for
        a sample that is `good` (no defect applies). Otherwise it is only known that the sample's own labels apply and
        that `good` doesn't.
        """
        candidates = sorted({*self.classes, GOOD}) if classes is None else classes
        all_known = self.complete or GOOD in sample.labels
        return tuple(name for name in candidates if all_known or name in sample.labels or name == GOOD)

    def absent_labels(self, sample: Sample) -> tuple[str, ...]:
        """The defects that are known not to apply to the sample. A `multi` model learns their absence from it."""
        return tuple(name for name in self.known_labels(sample) if name not in sample.labels and name != GOOD)

    def describe(self) -> str:
        """The images that may be trained on, by label as stated. No file has been read, so some may be unusable."""
        usable = [sample for sample in self.samples if not sample.held_out]
        held_out = len(self.samples) - len(usable)
        counts = ", ".join(f"{name} {count:,}" for name, count in count_labels(usable, self.classes).items())
        kept = f"; {held_out:,} more are held out" if held_out else ""
        return f"{self.files.path}: {len(usable):,} images to check and to learn from: {counts}{kept}"

    def with_samples(self, samples: Iterable[Sample]) -> Dataset:
        """The same dataset with other samples."""
        return replace(self, samples=tuple(samples))


def load_dataset(path: Path) -> Dataset:
    """Read the file names and labels of a dataset.

    Raises:
        BadDataset: there are no labeled images, the labels file is wrong (the message names the line), or a file that
            it names is missing.
    """
    files = open_files(path)
    tables = [name for name in (CSV_FILE, JSONL_FILE) if name in files.names]
    if len(tables) > 1:
        raise BadDataset(f"{path} has both {CSV_FILE} and {JSONL_FILE}: remove one.")
    dataset = _from_table(files, tables[0]) if tables else _from_class_folders(files)
    if not dataset.samples:
        raise BadDataset(
            f"{path} has no labeled images: give one folder per class, or {CSV_FILE} with the header "
            f"{','.join(COLUMNS)}."
        )
    return dataset.with_samples(_marked_held_out(files, dataset.samples))


def training_mode(dataset: Dataset, chosen: Mode | None) -> Mode:
    """The mode to train in: the chosen one, otherwise `multi` if any image has several labels.

    Raises:
        BadDataset: `single` was chosen, but an image has several labels.
    """
    several = next((sample for sample in dataset.samples if len(sample.labels) > 1), None)
    if chosen == "single" and several is not None:
        raise BadDataset(
            f"{dataset.files.path}: {printable(several.name)} has the labels {' and '.join(several.labels)}, but "
            "--mode single allows one per image. Use --mode multi."
        )
    return chosen or ("multi" if several else "single")


def check_trainable(dataset: Dataset, samples: Iterable[Sample], mode: Mode) -> None:
    """Raise unless there are at least two classes, and two samples of each.

    In `multi` each defect also needs two samples that are known not to have it. If a defect were never absent, a model
    could be right about it by always reporting it.

    Raises:
        BadDataset: the message names the class and its number of images.
    """
    path, used = dataset.files.path, list(samples)
    counts = count_labels(used, dataset.classes)
    if len(counts) < 2:
        there = f"only the class {next(iter(counts))!r}" if counts else "no classes"
        raise BadDataset(f"{path} has {there}, but a model needs at least two to tell apart.")
    for name, count in counts.items():
        if count < 2:
            noun = "image" if count == 1 else "images"
            raise BadDataset(
                f"{path}: class {name!r} has {count} usable {noun} outside {HELD_OUT_FILE}; at least 2 are needed, "
                "one to train on and one to validate with. Add images, or remove the class."
            )
    if mode == "multi":
        _check_absences(dataset, used)


def _check_absences(dataset: Dataset, samples: Iterable[Sample]) -> None:
    counts = Counter(name for sample in samples for name in dataset.absent_labels(sample))
    rarely_absent = [f"{name!r} {counts[name]}" for name in dataset.classes if name != GOOD and counts[name] < 2]
    if not rarely_absent:
        return
    remedy = (
        "Add images without them, or remove the class."
        if dataset.complete
        else "Folders with one label each don't state which other labels apply: add a folder "
        f"`{GOOD}/` of bottles without a defect, or state all labels of every image in {CSV_FILE}, or train with "
        "--mode single."
    )
    raise BadDataset(
        f"{dataset.files.path}: a `multi` model needs at least 2 images known to be without each defect. There are "
        f"fewer for: {', '.join(rarely_absent)}. {remedy}"
    )


def count_labels(samples: Iterable[Sample], classes: Iterable[str]) -> dict[str, int]:
    """The number of images per class, in the order of `classes`."""
    counts = Counter(label for sample in samples for label in sample.labels)
    return {name: counts[name] for name in classes}


def _from_class_folders(files: DatasetFiles) -> Dataset:
    tops = {name.partition("/")[0] for name in files.names if "/" in name} | set(files.empty_folders)
    labels = {top: _folder_labels(top, files.path) for top in tops}
    samples = [Sample(name, labels[name.partition("/")[0]]) for name in files.names if "/" in name]
    return Dataset(
        files,
        classes=tuple(sorted({label for names in labels.values() for label in names})),
        samples=tuple(samples),
        unlabelled=_unlabelled(files, {one.name for one in samples}),
        complete=any(FOLDER_SEPARATOR in top for top in tops),
    )


def _folder_labels(folder: str, path: Path) -> tuple[str, ...]:
    return _checked_labels(folder.split(FOLDER_SEPARATOR), location=f"{path}, folder {folder!r}")


def _from_table(files: DatasetFiles, table: str) -> Dataset:
    location = f"{files.path}/{table}"
    samples: dict[str, Sample] = {}
    known = set(files.names)
    for line, row in read_rows(files, table):
        name = PurePosixPath(row.filename.strip()).as_posix()
        line_location = f"{location}, line {line}"
        if name not in known:
            raise BadDataset(f"{line_location}: file {name!r} does not exist. Add it, or remove the line.")
        if name in samples:
            raise BadDataset(f"{line_location}: file {name!r} is listed twice. Join its labels by `|`.")
        samples[name] = Sample(
            name, _checked_labels(row.labels, location=line_location), camera=_checked_camera(row.camera, line_location)
        )
    classes = sorted({label for sample in samples.values() for label in sample.labels})
    ordered = tuple(samples[name] for name in sorted(samples))
    return Dataset(files, tuple(classes), ordered, _unlabelled(files, samples.keys()))


def _unlabelled(files: DatasetFiles, labeled: Set[str]) -> tuple[str, ...]:
    others = (name for name in files.names if name not in labeled)
    return tuple(printable(name) for name in others if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES)


def _checked_labels(labels: list[str], *, location: str) -> tuple[str, ...]:
    if not any(label.strip() for label in labels):
        raise BadDataset(f"{location}: no label: write `{GOOD}` where no defect applies.")
    cleaned = sorted({_checked_label(label, location) for label in labels})
    if GOOD in cleaned and len(cleaned) > 1:
        defects = " and ".join(repr(label) for label in cleaned if label != GOOD)
        raise BadDataset(f"{location}: `{GOOD}` stands beside {defects}, but `{GOOD}` means that no defect applies.")
    return tuple(cleaned)


def _checked_label(label: str, location: str) -> str:
    name = label.strip()
    if not name:
        raise BadDataset(f"{location}: an empty label beside others: remove it, or the separator before or after it.")
    if FOLDER_SEPARATOR in name:
        raise BadDataset(
            f"{location}: {name[:80]!r} can't be a label: `{FOLDER_SEPARATOR}` joins the labels of a folder. Join "
            f"the labels in a table by `{LABEL_SEPARATOR}`, or rename the label."
        )
    if not name.isprintable() or len(name) > 64 or LABEL_SEPARATOR in name:
        raise BadDataset(f"{location}: {label[:80]!r} can't be a label: 1 to 64 printable characters, no `|`.")
    return name


def _checked_camera(camera: str | None, location: str) -> str | None:
    """A camera's name must be valid in a job too, so that the two can be compared."""
    name = (camera or "").strip()
    try:
        return _CAMERA.validate_python(name) if name else None
    except ValidationError as error:
        raise BadDataset(f"{location}: {name[:80]!r} can't be a camera's name: {NAME_RULE}.") from error


def _marked_held_out(files: DatasetFiles, samples: tuple[Sample, ...]) -> Iterator[Sample]:
    held_out: set[str] = set()
    if HELD_OUT_FILE in files.names:
        lines = (line.partition("#")[0].strip() for line in read_text(files, HELD_OUT_FILE).splitlines())
        held_out = {line for line in lines if line}
    if missing := sorted(held_out - {sample.name for sample in samples}):
        raise BadDataset(
            f"{files.path}/{HELD_OUT_FILE} names {missing[0]!r}, which is not a labeled image of the dataset "
            f"({len(missing)} such in all): correct it."
        )
    return (replace(sample, held_out=sample.name in held_out) for sample in samples)
