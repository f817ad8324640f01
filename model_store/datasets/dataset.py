"""Datasets for training and evaluation: their images and the labels of each image.

In: a folder with a folder per class, or with a table: `labels.csv` (header `filename,labels`; labels joined by `|`,
`good` for none), `labels.jsonl` (the same two fields; labels may be a list) or one with a column of 0 and 1 per class;
or a zip of either. Around the class folders, or around the tables, there may be `train`, `valid` and `test`.
Out: a Dataset. No image is decoded here; `model_store.datasets.image_loading` does that.

A third column or field, `camera`, may name the camera that took the image, and another, `split`, its split.

Complete and incomplete labels: a table states all labels of its images. Class folders do too if one of their names
joins labels by `+`, as `no cap+disfigured` does, because then the author sorted every bottle by all its labels. Without
such a folder, a bottle in `no cap` lacks its cap, but may be disfigured too. A `multi` model must not learn from its
image that the bottle is not disfigured; `Dataset.known_labels` says which labels are known. To state that no other
label applies, write a labels.csv.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from model_store.bundle.policy import GOOD, Mode
from model_store.datasets.comparable import comparable, comparable_word
from model_store.datasets.dataset_files import HELD_OUT_FILE, DatasetFiles, is_image_name, open_files
from model_store.datasets.file_lookup import FileLookup
from model_store.datasets.given_splits import Part, lies_in_test
from model_store.datasets.label_names import (
    check_contradiction,
    class_names,
    cleaned_labels,
    is_like_good,
)
from model_store.datasets.label_tables import CSV_FILE, read_text
from model_store.datasets.labeled_files import LabeledFile, LabeledFiles, read_labeled_files
from model_store.datasets.reading import Reading
from model_store.datasets.table_columns import COLUMNS
from shared.errors import BadDataset
from shared.printable import printable

_SHOWN = 3
_LIST_SUFFIXES = frozenset({"", ".txt", ".csv", ".tsv", ".lst", ".json", ".jsonl"})
_LIST_STEMS = frozenset({"heldout", "holdout"})


@dataclass(frozen=True)
class Sample:
    """One image file, its true labels, sorted, and the camera that took it, if the dataset names it.

    `held_out`: must never be used for training or validation. `validation`: lies in the dataset's own validation split.
    """

    name: str
    labels: tuple[str, ...]
    held_out: bool = False
    camera: str | None = None
    validation: bool = False


@dataclass(frozen=True)
class Dataset:
    """The classes and labeled samples of a dataset.

    `classes` are sorted; `samples` are sorted by name. `unlabelled` are the `printable` names of image files that the
    labels file doesn't name, or that lie outside the class folders: they are reported, but not used. `complete`: every
    label that applies to an image is stated; otherwise labels that are not stated may apply too. `reading`: how its
    layout and its names were understood. `lists`: the files that its labels and held-out images were read from.
    `good_class`: the user has said which class means `good`.
    """

    files: DatasetFiles
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    unlabelled: tuple[str, ...] = ()
    complete: bool = True
    reading: Reading = field(default_factory=Reading)
    lists: tuple[Path, ...] = ()
    good_class: str | None = None

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

    def named_like(self, classes: Collection[str]) -> Dataset:
        """The same dataset with the names of a model's classes, e.g. `no cap` for its own `No-Cap`.

        Raises:
            BadDataset: a class has none of these names, and several of them are comparable to it.
        """
        written = {*self.classes, *(label for sample in self.samples for label in sample.labels)}
        name_of = {name: self._named_like(name, classes) for name in written}
        return replace(
            self,
            classes=tuple(sorted({name_of[name] for name in self.classes})),
            samples=tuple(
                replace(sample, labels=tuple(sorted({name_of[name] for name in sample.labels})))
                for sample in self.samples
            ),
        )

    def _named_like(self, name: str, classes: Collection[str]) -> str:
        alike = sorted({one for one in classes if comparable(one) == comparable(name)})
        if name in alike or not alike:
            return name
        if len(alike) > 1:
            raise BadDataset(
                f"{self.files.path}: the class {name!r} may be {' or '.join(map(repr, alike))} of the model. Give the "
                "dataset's class one of these names."
            )
        return alike[0]

    def with_samples(self, samples: Iterable[Sample]) -> Dataset:
        """The same dataset with other samples."""
        return replace(self, samples=tuple(samples))


def load_dataset(path: Path, *, good_class: str | None = None) -> Dataset:
    """Read the file names and labels of a dataset. `good_class`: the class that is read as `good`, as `good` is.

    Raises:
        BadDataset: there are no labeled images, the labels file is wrong (the message names the line), a file that it
            names is missing, or no class is called `good_class`.
    """
    files = open_files(path)
    labeled = read_labeled_files(files, good_class=good_class)
    if not labeled.files:
        raise BadDataset(_no_images(files, labeled))
    named = _Named.of(labeled, good_class=good_class)
    _check_held_out_name(files)
    held_out = _held_out_names(files, {one.name for one in labeled.files})
    samples = tuple(_sample(one, labels, held_out) for one, labels in zip(labeled.files, named.labels, strict=True))
    return Dataset(
        files,
        classes=named.classes,
        samples=samples,
        unlabelled=_unlabelled(files, {sample.name for sample in samples}),
        complete=labeled.complete,
        reading=_reading(files, labeled, samples, named, good_class=good_class),
        lists=tuple(files.path / files.root / name for name in _list_names(files, labeled)),
        good_class=good_class,
    )


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
                f"{path}: class {name!r} has {count} usable {noun} outside what is held out; at least 2 are needed, "
                "one to train on and one to validate with. Add images, or remove the class."
            )
    if mode == "multi":
        _check_good(dataset)
        _check_absences(dataset, used)


def _check_good(dataset: Dataset) -> None:
    """Refuse to learn a class called `ok` as a defect, unless the user has said what `good` is called."""
    if GOOD not in dataset.classes and dataset.reading.like_good:
        name = dataset.reading.like_good[0]
        raise BadDataset(
            f"{dataset.files.path}: {name!r} seems to mean that a bottle has no defect, but a `multi` model would "
            f"learn it as one, as no class is called `{GOOD}`. Give --good-class {name!r} if it means `{GOOD}`, or "
            f"--good-class {GOOD} if it is a defect."
        )


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


@dataclass(frozen=True)
class _Named:
    """The labels of each labeled file under the names of the classes, all classes, and which names were merged."""

    labels: list[tuple[str, ...]]
    classes: tuple[str, ...]
    merged: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, labeled: LabeledFiles, *, good_class: str | None) -> _Named:
        """Give all names that are one in `label_names.comparable` one name."""
        written: dict[str, set[str]] = {}  # by cleaned name, where it was written otherwise
        cleaned = [_cleaned(one.labels, one.location, written) for one in labeled.files]
        counts = Counter(name for names in cleaned for name in names)
        counts.update({name: 0 for labels, location in labeled.empty for name in _cleaned(labels, location, written)})
        found = class_names(counts, good_class=good_class)
        labels = [tuple(sorted({found.name_of[name] for name in names})) for names in cleaned]
        for one, names in zip(labeled.files, labels, strict=True):
            check_contradiction(names, location=one.location)
        merged = {name: set(names) for name, names in found.merged.items()}
        for name, forms in written.items():
            merged.setdefault(found.name_of[name], {name}).update(forms)
        return cls(
            labels,
            classes=tuple(sorted(set(found.name_of.values()))),
            merged={name: tuple(sorted(names)) for name, names in sorted(merged.items())},
        )


def _cleaned(labels: tuple[str, ...], location: str, written: dict[str, set[str]]) -> tuple[str, ...]:
    names = cleaned_labels(labels, location=location)
    if len(labels) == len(names) == 1:
        raw, name = labels[0] if ", folder " in location else labels[0].strip(), names[0]
        if raw != name:
            written.setdefault(name, set()).add(raw)
    return names


def _sample(one: LabeledFile, labels: tuple[str, ...], held_out: Set[str]) -> Sample:
    return Sample(
        one.name,
        labels,
        held_out=one.name in held_out or one.part == "test",
        camera=one.camera,
        validation=one.part == "validation" and one.name not in held_out,
    )


def _reading(
    files: DatasetFiles,
    labeled: LabeledFiles,
    samples: tuple[Sample, ...],
    named: _Named,
    *,
    good_class: str | None,
) -> Reading:
    splits: Counter[Part] = Counter()
    if any(one.part for one in labeled.files):
        splits.update(
            "test" if sample.held_out else "validation" if sample.validation else "train" for sample in samples
        )
    return Reading(
        wrapper=printable(files.root.rstrip("/")),
        splits=dict(splits),
        merged=named.merged,
        like_good=() if good_class is not None else tuple(name for name in named.classes if is_like_good(name)),
        left_out=files.left_out,
        remarks=tuple(map(printable, (*labeled.remarks, *_repeated(files), *_trained_tests(labeled, samples)))),
    )


def _repeated(files: DatasetFiles) -> list[str]:
    if not files.repeated:
        return []
    return [f"files that the zip holds several times, with one content, count once: {_shown(files.repeated)}"]


def _trained_tests(labeled: LabeledFiles, samples: Iterable[Sample]) -> list[str]:
    """A remark on the images in folders called `test` that are in no split, and so are trained on."""
    names = [
        sample.name
        for one, sample in zip(labeled.files, samples, strict=True)
        if one.part is None and not sample.held_out and lies_in_test(one.name)
    ]
    if not names:
        return []
    count, them = ("1 image", "it") if len(names) == 1 else (f"{len(names):,} images", "them")
    return [
        f"{count} in a folder called test {'is' if len(names) == 1 else 'are'} trained on too: {_shown(names)}. To "
        f"hold {them} out, name {them} in {HELD_OUT_FILE}"
    ]


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {more:,} more" if more > 0 else "")


def _list_names(files: DatasetFiles, labeled: LabeledFiles) -> list[str]:
    return [*labeled.tables, *(name for name in files.names if name.casefold() == HELD_OUT_FILE)]


def _no_images(files: DatasetFiles, labeled: LabeledFiles) -> str:
    archives = [name for name in files.names if name.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"))]
    told = f" It holds {printable(archives[0])}: unpack it, and give that." if archives else ""
    told += f" {printable(labeled.remarks[0])}." if labeled.remarks else ""
    return (
        f"{files.path} has no labeled images: give one folder per class, or {CSV_FILE} with the header "
        f"{','.join(COLUMNS)}.{told}"
    )


def _unlabelled(files: DatasetFiles, labeled: Set[str]) -> tuple[str, ...]:
    return tuple(printable(name) for name in files.names if name not in labeled and is_image_name(name))


def _check_held_out_name(files: DatasetFiles) -> None:
    """Raise if a list of held-out images has another name or place: what it names would be trained on.

    Raises:
        BadDataset: names the file.
    """
    for name in (*files.names, *files.beside_root):
        path = PurePosixPath(name)
        is_list = path.suffix.casefold() in _LIST_SUFFIXES and comparable_word(path.stem) in _LIST_STEMS
        if is_list and (name.casefold() != HELD_OUT_FILE or name in files.beside_root):
            raise BadDataset(
                f"{files.path}: {printable(name)} seems to list held-out images, but isn't read. Call it "
                f"{files.root}{HELD_OUT_FILE}, one image per line, or give it a name without `held out`."
            )


def _held_out_names(files: DatasetFiles, labeled: Set[str]) -> set[str]:
    """The files that held_out.txt names; its own name may have capitals, and its names any form that a table's have.

    Raises:
        BadDataset: one of them is not labeled.
    """
    lists = [name for name in files.names if name.casefold() == HELD_OUT_FILE]
    lookup = FileLookup(files)
    lines = (line.partition("#")[0].strip() for name in lists for line in read_text(files, name).splitlines())
    found = {line: lookup.find(line) for line in lines if line}
    held_out = {name for name in found.values() if name is not None}
    if missing := sorted(line for line, name in found.items() if name not in labeled):
        raise BadDataset(
            f"{files.path}/{lists[0]} names {missing[0]!r}, which is not a labeled image of the dataset "
            f"({len(missing)} such in all): correct it."
        )
    return held_out
