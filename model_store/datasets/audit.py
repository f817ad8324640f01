"""Audits a dataset before training: balance, duplicates, contradictions.

In: a dataset and its decoded images. Out: a DatasetReport, which can be printed and serialized to JSON.

How training treats images that show the same photograph (`model_store.datasets.near_duplicates`):

    same labels            kept; a split keeps the group on one side (`groups_of`)
    contradictory labels   if the images are identical or a copy, the labels can't both be true, and it is unknown which
                           is, so neither image is trained on. If they are only alike, both are kept, in one group, and
                           reported: a missing cap may be the only difference between two bottles in one pose, and
                           training learns most from such pairs
    one is held out        the others are not trained on: the held-out image must be new to the model
    one is in the dataset's own validation split, and that is used: training images among them are not trained on

`good` contradicts every defect. Different labels of one photograph also contradict each other if the labels of each
image are complete, or if an image can only have one (`single`). They don't in a `multi` model if the dataset has a
folder per label (`Dataset.complete` is False): a photograph in both `no cap` and `disfigured` has both labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

from model_store.bundle.policy import GOOD, Mode, Policy
from model_store.datasets.comparable import comparable_word
from model_store.datasets.contradictions import Conflict, FileName, find_conflicts
from model_store.datasets.dataset import Dataset, Sample, count_labels
from model_store.datasets.image_loading import DecodedSamples
from model_store.datasets.label_names import LABEL_SEPARATOR
from model_store.datasets.near_duplicates import DuplicateKind, Duplicates, Pair, connected_groups, find_duplicates
from model_store.datasets.reading import Reading
from model_store.datasets.splitting import Split, given_split
from model_store.datasets.validation_split import copies_of, validation_split
from model_store.runtime.progress import ProgressSteps
from shared.arrays import Indices
from shared.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

# Ratio of the largest class to the smallest above which training neglects the small one. Class weights compensate for
# smaller ratios only.
IMBALANCE = 3.0
# With fewer images, a class has at most four in validation, and one error changes its recall by a quarter.
FEW_IMAGES = 20
# Lanes that every ejector's program accepts as tags. They are made from the names of the classes.
_PLAIN_LANE = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 2  # files or pairs printed per finding, so that it stays a line or two; the JSON has all of them
_SHOWN_CLASSES = 10


class _ReportModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UnreadableFile(_ReportModel):
    """A file that is not a usable image."""

    file: str
    reason: str


class Duplicate(_ReportModel):
    """Two files that show the same photograph; see `near_duplicates.Pair`."""

    first: FileName
    second: FileName
    kind: DuplicateKind
    turn: str
    difference: float


class DatasetReport(_ReportModel):
    """All findings. Files are named as in the dataset, and `printable` in JSON.

    Counts are of usable images that are not held out.

    `groups` are files that show the same photograph, held-out ones included; `duplicates` are the pairs that connect
    them. `crowded` are files too similar to many others to tell copies from other bottles: of these, only identical
    ones are in a group. `held_out_copies` maps each file that shows the photograph of a held-out file to that file;
    `validation_copies` the same for training files and those of the dataset's own validation split, if that is used.
    `excluded` are the files that must not be trained on: those copies, and the files of contradictions.

    `reading`: how the layout and the names were understood. `validation`: the images of the dataset's own validation
    split. `validation_refused`: why that is not used; None if it is, or if there is none.
    """

    path: FileName
    mode: Mode
    complete: bool
    images: int
    held_out: int
    per_class: dict[str, int]
    per_label_set: dict[str, int]  # joined by `|`
    per_camera: dict[str, int]  # where the dataset names cameras
    images_by_sample_bits: dict[int, int]  # of more than 8 bits per sample: how many were read at which number
    imbalance: float | None  # largest class over smallest; None when a class has no image
    unreadable: tuple[UnreadableFile, ...]
    unlabelled: tuple[str, ...]
    duplicates: tuple[Duplicate, ...]
    groups: tuple[tuple[FileName, ...], ...]
    crowded: tuple[FileName, ...]
    conflicts: tuple[Conflict, ...]
    held_out_copies: dict[FileName, FileName]
    excluded: tuple[FileName, ...]
    validation_copies: dict[FileName, FileName] = {}
    validation: int = 0
    validation_refused: str | None = None
    reading: Reading = Reading()

    @property
    def rare_classes(self) -> dict[str, int]:
        """The classes with fewer than FEW_IMAGES images, and how many they have."""
        return {name: count for name, count in self.per_class.items() if count < FEW_IMAGES}

    @property
    def lanes(self) -> dict[str, str]:
        """The lane that a model trained on this dataset gives to each class, by class."""
        return self._policy.lanes

    @property
    def _policy(self) -> Policy:
        classes = {*self.per_class, GOOD} if self.mode == "multi" else {*self.per_class}
        return Policy.default(sorted(classes), self.mode)

    def groups_of(self, samples: Iterable[Sample]) -> list[int]:
        """A number per sample, equal for samples that show one photograph: the `groups` of `splitting.split`."""
        number_of = {name: number for number, names in enumerate(self.groups) for name in names}
        return [number_of.get(sample.name, len(self.groups) + index) for index, sample in enumerate(samples)]

    def given_split(self, samples: Sequence[Sample], rows: Indices) -> Split | None:
        """The rows of `samples` by the dataset's own splits; None if it has no validation split, or none to use."""
        return given_split(samples, rows) if self.validation and self.validation_refused is None else None

    def warnings(self) -> list[str]:
        """Warnings to read before training, one or two sentences each; empty when there is nothing to warn about."""
        return [*self.reading.lines(), *self._warnings_of_labels(), *self._warnings_of_images()]

    def show(self, console: Console) -> None:
        """Print the classes and the warnings, briefly."""
        from rich.text import Text

        from shared.tables import print_table

        held_out = f", {self.held_out:,} held out" if self.held_out else ""
        title = f"{self.path}: {self.images:,} images to learn from ({self.mode}){held_out}"
        console.print(Text(printable(title)), soft_wrap=True)  # whole lines, so that a file name can be searched for
        rows = [(name, f"{count:,}", f"{count / max(self.images, 1):.0%}") for name, count in self.per_class.items()]
        print_table(console, ("class", "images", "share"), rows)
        console.print(Text(f"lanes: {', '.join(self.lanes.values())}"))
        for text in self.warnings() or ["no duplicates, contradictions, unreadable files or rare classes"]:
            console.print(Text(printable(f"- {text}")), soft_wrap=True)

    def _warnings_of_labels(self) -> Iterable[str]:
        if self.imbalance is not None and self.imbalance > IMBALANCE:
            large, small = (pick(self.per_class, key=self.per_class.__getitem__) for pick in (max, min))
            yield (
                f"imbalance: {large!r} has {self.imbalance:.1f} times the images of {small!r}. Images of {small!r} are "
                "the most useful ones to add."
            )
        if rare := self.rare_classes:
            counts = [f"{name!r} {count}" for name, count in rare.items()]
            shown = _shortened(counts, shown=_SHOWN_CLASSES, separator=", ")
            yield f"fewer than {FEW_IMAGES} images: {shown}. Their validation metrics will be imprecise."
        for names in _similar_names(self.per_class):
            shown = ", ".join(map(repr, names))
            yield f"the names {shown} differ only in case, blanks and signs. If they mean the same, give them one name."
        for text in self._policy.shared_lanes():
            yield f"{text}. Rename the classes, or give their lanes other names in the setting `policies`."
        if odd := [lane for lane in self.lanes.values() if not _PLAIN_LANE.fullmatch(lane)]:
            yield (
                f"lanes with other characters than letters, digits, `-` and `_`: {', '.join(odd)}. The ejector "
                "may not accept them. Rename the classes, or give their lanes other names in the setting `policies`."
            )
        if self.mode == "multi" and not self.complete:
            yield (
                "each folder states only one label, so it is unknown which other defects a bottle with a defect has. "
                "To train on those too, state all labels in labels.csv, or in folder names joined by `+`."
            )

    def _warnings_of_images(self) -> Iterable[str]:
        if self.unreadable:
            yield f"unreadable, not used: {_shortened(self._unreadable_by_reason())}"
        if len(self.images_by_sample_bits) > 1:
            counts = [f"{bits} bits {count:,}" for bits, count in self.images_by_sample_bits.items()]
            yield (
                f"images of more than 8 bits per sample were read at different numbers of bits: {', '.join(counts)}. "
                "If one camera took them, set sample_bits to the number that it gives."
            )
        if self.unlabelled:
            yield f"images without a label, not used: {_shortened(self.unlabelled)}"
        if self.groups:
            count = sum(map(len, self.groups))
            pairs = [f"{one.first} = {one.second} ({one.kind}, {one.turn})" for one in self.duplicates]
            photographs = f"{len(self.groups):,} photograph{'s' if len(self.groups) > 1 else ''}"
            yield (
                f"{count:,} images show only {photographs}: {_shortened(pairs)}. A split keeps all images of a "
                "photograph on one side."
            )
        for excluded, what in ((True, "not trained on"), (False, "kept; please check them")):
            conflicts = [one.describe() for one in self.conflicts if one.excluded is excluded]
            if conflicts:
                yield f"contradictory labels, {what}: {_shortened(conflicts)}"
        yield from self._warnings_of_splits()
        if self.crowded:
            yield (
                f"{len(self.crowded):,} images are too similar to many others to tell copies from other bottles: "
                f"{_shortened(self.crowded)}. If they are copies, the validation metrics are too optimistic."
            )

    def _warnings_of_splits(self) -> Iterable[str]:
        if copies := [f"{name} = {held_out}" for name, held_out in self.held_out_copies.items()]:
            yield f"not trained on, because the same photograph is held out: {_shortened(copies)}"
        if copies := [f"{name} = {other}" for name, other in self.validation_copies.items()]:
            yield f"not trained on, because the validation split has the same photograph: {_shortened(copies)}"
        if self.validation_refused:
            yield self.validation_refused

    def _unreadable_by_reason(self) -> list[str]:
        files: dict[str, list[str]] = {}
        for item in self.unreadable:
            files.setdefault(item.reason, []).append(item.file)
        more = {reason: f" and {len(names) - 1:,} more" if len(names) > 1 else "" for reason, names in files.items()}
        return [f"{names[0]}{more[reason]} ({reason.rstrip('.')})" for reason, names in files.items()]


def audit_dataset(
    dataset: Dataset,
    decoded: DecodedSamples,
    *,
    held_out: DecodedSamples | None = None,
    mode: Mode,
    steps: ProgressSteps | None = None,
) -> DatasetReport:
    """Audit the dataset. Changes and excludes nothing: the report says what to do.

    Args:
        dataset: the dataset of the images.
        decoded: the decoded samples that may be trained on.
        held_out: the samples of held_out.txt, decoded to the same size; the others are only compared with them.
        mode: the mode of the model to train.
        steps: shows the progress.
    """
    parts = [decoded, *([held_out] if held_out else [])]
    samples = tuple(sample for part in parts for sample in part.samples)
    duplicates = find_duplicates([part.images for part in parts], steps=steps or ProgressSteps())
    numbers = connected_groups(pair[:2] for pair in duplicates.pairs)
    found = _Comparison(
        samples,
        duplicates,
        groups=[[samples[number] for number in group] for group in numbers],
        conflicts=find_conflicts(samples, duplicates, some_unknown=mode == "multi" and not dataset.complete),
    )
    unreadable = tuple(UnreadableFile(file=item.name, reason=item.reason) for part in parts for item in part.unreadable)
    return _report(dataset, decoded, found, unreadable=unreadable, mode=mode)


class _Comparison(NamedTuple):
    """Which of all images show the same photograph, held-out ones included."""

    samples: tuple[Sample, ...]
    duplicates: Duplicates
    groups: list[list[Sample]]
    conflicts: tuple[Conflict, ...]


def _report(
    dataset: Dataset,
    decoded: DecodedSamples,
    found: _Comparison,
    *,
    unreadable: tuple[UnreadableFile, ...],
    mode: Mode,
) -> DatasetReport:
    per_class = count_labels(decoded.samples, dataset.classes)
    copies = copies_of(found.groups, is_original=lambda sample: sample.held_out)
    excluded = {*copies, *(name for conflict in found.conflicts if conflict.excluded for name in conflict.labels)}
    given = validation_split(dataset, decoded.samples, found.groups, excluded=excluded, mode=mode)
    held_out = {sample.name for sample in found.samples if sample.held_out}
    return DatasetReport(
        path=str(dataset.files.path),
        mode=mode,
        complete=dataset.complete,
        images=len(decoded.samples),
        per_class=per_class,
        per_label_set=_count(LABEL_SEPARATOR.join(sample.labels) for sample in decoded.samples),
        per_camera=_count(sample.camera for sample in decoded.samples if sample.camera is not None),
        images_by_sample_bits=dict(sorted(Counter(decoded.sample_bits).items())),
        imbalance=_imbalance(per_class),
        held_out=len(found.samples) - len(decoded.samples),
        unreadable=unreadable,
        unlabelled=dataset.unlabelled,
        duplicates=tuple(_duplicate(pair, found.samples) for pair in found.duplicates.pairs),
        groups=tuple(tuple(sample.name for sample in group) for group in found.groups),
        crowded=tuple(found.samples[number].name for number in found.duplicates.crowded),
        conflicts=found.conflicts,
        held_out_copies=copies,
        validation_copies=given.copies,
        validation=sum(sample.validation for sample in decoded.samples),
        validation_refused=given.refused,
        reading=dataset.reading,
        excluded=tuple(sorted({*excluded, *given.copies} - held_out)),
    )


def _imbalance(per_class: Mapping[str, int]) -> float | None:
    smallest = min(per_class.values(), default=0)
    return round(max(per_class.values()) / smallest, 2) if smallest else None


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _duplicate(pair: Pair, samples: Sequence[Sample]) -> Duplicate:
    return Duplicate(
        first=samples[pair.first].name,
        second=samples[pair.second].name,
        kind=pair.kind,
        turn=pair.turn,
        difference=pair.difference,
    )


def _similar_names(names: Iterable[str]) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(comparable_word(name) or name, []).append(name)
    return [similar for similar in found.values() if len(similar) > 1]


def _shortened(texts: Sequence[str], *, shown: int = _SHOWN, separator: str = "; ") -> str:
    more = len(texts) - shown
    rest = [f"and {more:,} more (see `models check-dataset --json`)"] if more > 0 else []
    return separator.join([*texts[:shown], *rest])
