"""What a dataset is like, found before training starts: balance, duplicates, contradictions.

In: a dataset and its decoded pictures. Out: a DatasetReport, data fit for JSON that can print itself.

What becomes of images that show the same photograph (`model_store.datasets.near_duplicates`):

    same labels            kept; a split puts the group to one side (`groups_of`)
    contradictory labels   identical or a copy: not both can be true, and nothing says which is, so neither is
                           trained on. Only alike: both are kept, in one group, and named: a missing cap may be all
                           that tells two bottles in one pose apart, and such pairs teach most
    one is held out        the others are not trained on: the held-out image is to be new to the model

`good` contradicts every defect. So do different labels of one photograph where each image's labels are complete, or
one label an image is all there can be (`single`). In folders of one label (`Dataset.complete` is False) under `multi`
they don't: the photograph in `no cap` and again in `disfigured` has both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from model_store.bundle.policy import GOOD, Mode
from model_store.datasets.dataset import HELD_OUT_FILE, LABEL_SEPARATOR, Dataset, Sample, count_labels
from model_store.datasets.image_loading import Pictures
from model_store.datasets.near_duplicates import Duplicates, Kind, Pair, connected, find_duplicates
from model_store.runtime.progress import ProgressSteps

if TYPE_CHECKING:
    from rich.console import Console

# Largest class over smallest from which the small one is easily neglected; class weights make up for less.
IMBALANCE = 3.0
# Fewer than this, and validation checks a class with four images at most: one error moves its recall by a quarter.
FEW_IMAGES = 20
_SHOWN = 5  # names printed of each finding; the JSON has all


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UnreadableFile(_Part):
    """A file that is not a usable image."""

    file: str
    reason: str


class Duplicate(_Part):
    """Two files that show the same photograph, as `duplicates.Pair` says."""

    first: str
    second: str
    kind: Kind
    turn: str
    difference: float


class Conflict(_Part):
    """The same photograph with labels that contradict each other, by file. `excluded`: none of them is trained on."""

    labels: dict[str, tuple[str, ...]]
    kind: Kind
    excluded: bool


class DatasetReport(_Part):
    """All findings. Files are named as in the dataset; counts are of usable images that are not held out.

    `groups` are files that show the same photograph, held-out ones among them; `duplicates` are the pairs that connect
    them. `crowded` are files too like many others to tell copies from other bottles: only those that are
    identical are in a group. `held_out_copies` names a held-out file for each other file that shows the same.
    `excluded` are the files not to train on: of those, and of contradictions.
    """

    path: str
    mode: Mode
    complete: bool
    images: int
    held_out: int
    per_class: dict[str, int]
    per_label_set: dict[str, int]  # joined by `|`
    per_camera: dict[str, int]  # where the dataset names cameras
    imbalance: float | None  # largest class over smallest; None when a class has no image
    unreadable: tuple[UnreadableFile, ...]
    unlabelled: tuple[str, ...]
    duplicates: tuple[Duplicate, ...]
    groups: tuple[tuple[str, ...], ...]
    crowded: tuple[str, ...]
    conflicts: tuple[Conflict, ...]
    held_out_copies: dict[str, str]
    excluded: tuple[str, ...]

    @property
    def few(self) -> dict[str, int]:
        """The classes with fewer than FEW_IMAGES, and how many they have."""
        return {name: count for name, count in self.per_class.items() if count < FEW_IMAGES}

    def groups_of(self, samples: Iterable[Sample]) -> list[int]:
        """A number for each sample, the same for those that show one photograph: `groups` of `split.split`."""
        number_of = {name: number for number, names in enumerate(self.groups) for name in names}
        return [number_of.get(sample.name, len(self.groups) + place) for place, sample in enumerate(samples)]

    def warnings(self) -> list[str]:
        """What a person should know before training starts, one sentence or two each; empty when all is well."""
        return [text for text in (*self._warnings_of_labels(), *self._warnings_of_images()) if text]

    def show(self, console: Console) -> None:
        """Print the classes and the warnings, briefly."""
        from rich.table import Table
        from rich.text import Text

        held_out = f", {self.held_out:,} held out" if self.held_out else ""
        title = f"{self.path}: {self.images:,} images to learn from ({self.mode}){held_out}"
        console.print(Text(title), soft_wrap=True)  # whole lines, so that a file name can be searched for
        table = Table("class")
        table.add_column("images", justify="right")
        table.add_column("share", justify="right")
        for name, count in self.per_class.items():
            table.add_row(Text(name), f"{count:,}", f"{count / max(self.images, 1):.0%}")
        console.print(table)
        for text in self.warnings() or ["no duplicates, contradictions, unreadable files or rare classes"]:
            console.print(Text(f"- {text}"), soft_wrap=True)

    def _warnings_of_labels(self) -> Iterable[str]:
        if self.imbalance is not None and self.imbalance > IMBALANCE:
            large, small = (pick(self.per_class, key=self.per_class.__getitem__) for pick in (max, min))
            yield (
                f"imbalance: {large!r} has {self.imbalance:.1f} times the images of {small!r}. More of {small!r} help "
                "more than more of anything else."
            )
        if few := self.few:
            counts = ", ".join(f"{name!r} {count}" for name, count in few.items())
            yield f"fewer than {FEW_IMAGES} images: {counts}. Their figures on validation will be rough."
        if self.mode == "multi" and not self.complete:
            yield (
                "folders of one label: what else applies to a bottle with a defect is taken as unknown, not as absent. "
                "State all labels in labels.csv, or in folder names joined by `+`, to learn from them too."
            )

    def _warnings_of_images(self) -> Iterable[str]:
        if self.unreadable:
            files = [f"{item.file} ({item.reason})" for item in self.unreadable]
            yield f"unreadable, not used: {_few(files)}"
        if self.unlabelled:
            yield f"images without a label, not used: {_few(self.unlabelled)}"
        if self.groups:
            count = sum(map(len, self.groups))
            pairs = [f"{one.first} = {one.second} ({one.kind}, {one.turn})" for one in self.duplicates]
            yield (
                f"{count:,} images show only {len(self.groups):,} photographs: {_few(pairs)}. A split keeps "
                "the images of each to one side."
            )
        for excluded, what in ((True, "none of them is trained on"), (False, "kept; look at them")):
            conflicts = [_described(one) for one in self.conflicts if one.excluded is excluded]
            if conflicts:
                yield f"contradictory labels, {what}: {_few(conflicts)}"
        if copies := [f"{name} = {held_out}" for name, held_out in self.held_out_copies.items()]:
            yield f"not trained on, as {HELD_OUT_FILE} names the same photograph: {_few(copies)}"
        if self.crowded:
            yield (
                f"{len(self.crowded):,} images are too like many others to tell copies from other bottles: "
                f"{_few(self.crowded)}. If they are copies, the figures on validation flatter the model."
            )


def examine(
    dataset: Dataset,
    pictures: Pictures,
    *,
    held_out: Pictures | None = None,
    mode: Mode,
    steps: ProgressSteps | None = None,
) -> DatasetReport:
    """Look the dataset over. Changes nothing, excludes nothing: the report says what to do.

    Args:
        dataset: where the pictures are from.
        pictures: the decoded samples that may be trained on.
        held_out: those of held_out.txt, of the same size; they are only compared with.
        mode: how a model is to be trained.
        steps: hears of the progress.
    """
    samples = (*pictures.samples, *(held_out.samples if held_out else ()))
    arrays = [pictures.images, *([held_out.images] if held_out else [])]
    found = find_duplicates(arrays, steps=steps or ProgressSteps())
    groups = [[samples[number] for number in group] for group in connected(pair[:2] for pair in found.pairs)]
    conflicts = _conflicts(samples, found, some_unknown=mode == "multi" and not dataset.complete)
    copies = _held_out_copies(groups)
    contradicting = {name for conflict in conflicts if conflict.excluded for name in conflict.labels}
    return DatasetReport(
        path=str(dataset.files.path),
        mode=mode,
        complete=dataset.complete,
        **_counts(dataset, pictures),
        held_out=len(samples) - len(pictures.samples),
        unreadable=tuple(
            UnreadableFile(file=item.name, reason=item.reason)
            for item in (*pictures.unreadable, *(held_out.unreadable if held_out else ()))
        ),
        unlabelled=dataset.unlabelled,
        duplicates=tuple(_named(pair, samples) for pair in found.pairs),
        groups=tuple(tuple(sample.name for sample in group) for group in groups),
        crowded=tuple(samples[number].name for number in found.crowded),
        conflicts=conflicts,
        held_out_copies=copies,
        excluded=tuple(sorted({*copies, *contradicting} - {sample.name for sample in samples if sample.held_out})),
    )


def _counts(dataset: Dataset, pictures: Pictures) -> dict[str, Any]:
    samples = pictures.samples
    per_class = count_labels(samples, dataset.classes)
    smallest = min(per_class.values(), default=0)
    return {
        "images": len(samples),
        "per_class": per_class,
        "per_label_set": _counted(LABEL_SEPARATOR.join(sample.labels) for sample in samples),
        "per_camera": _counted(sample.camera for sample in samples if sample.camera is not None),
        "imbalance": round(max(per_class.values()) / smallest, 2) if smallest else None,
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _named(pair: Pair, samples: Sequence[Sample]) -> Duplicate:
    return Duplicate(
        first=samples[pair.first].name,
        second=samples[pair.second].name,
        kind=pair.kind,
        turn=pair.turn,
        difference=pair.difference,
    )


def _conflicts(samples: Sequence[Sample], found: Duplicates, *, some_unknown: bool) -> tuple[Conflict, ...]:
    """Contradictions inside each group of identical pictures, then between two that are a copy or alike."""
    identical = connected(pair[:2] for pair in found.pairs if pair.kind == "identical")
    group_of = {number: group for group in identical for number in group}
    suspects: list[tuple[list[int], list[int], Kind]] = [(group, group, "identical") for group in identical]
    suspects += [
        (group_of.get(pair.first, [pair.first]), group_of.get(pair.second, [pair.second]), pair.kind)
        for pair in found.pairs
        if pair.kind != "identical"
    ]
    return tuple(
        Conflict(
            labels={samples[number].name: samples[number].labels for number in (*first, *second)},
            kind=kind,
            excluded=kind != "alike",
        )
        for first, second, kind in suspects
        if _contradict(_label_sets(samples, first), _label_sets(samples, second), some_unknown=some_unknown)
    )


def _label_sets(samples: Sequence[Sample], numbers: Iterable[int]) -> set[tuple[str, ...]]:
    return {samples[number].labels for number in numbers}


def _contradict(first: set[tuple[str, ...]], second: set[tuple[str, ...]], *, some_unknown: bool) -> bool:
    """Whether some labels of the first can't be true together with some of the second."""
    different = ((one, other) for one in first for other in second if one != other)
    return any(not some_unknown or GOOD in one or GOOD in other for one, other in different)


def _held_out_copies(groups: Iterable[Sequence[Sample]]) -> dict[str, str]:
    copies: dict[str, str] = {}
    for group in groups:
        held_out = next((sample.name for sample in group if sample.held_out), None)
        if held_out is not None:
            copies |= {sample.name: held_out for sample in group if not sample.held_out}
    return copies


def _described(conflict: Conflict) -> str:
    return " but ".join(f"{name} is {LABEL_SEPARATOR.join(labels)}" for name, labels in conflict.labels.items())


def _few(texts: Sequence[str]) -> str:
    more = len(texts) - _SHOWN
    return "; ".join(texts[:_SHOWN]) + (f"; and {more:,} more (--json of `models check-dataset`)" if more > 0 else "")
