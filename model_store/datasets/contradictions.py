"""Labels of one photograph in several files that can't all be true; `audit` says what becomes of such files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer

from model_store.bundle.policy import GOOD
from model_store.datasets.dataset import Sample
from model_store.datasets.label_names import LABEL_SEPARATOR
from model_store.datasets.near_duplicates import DuplicateKind, Duplicates, connected_groups
from shared.printable import printable

# Findings are looked up by the names in the dataset, and written in a form that can be printed.
FileName = Annotated[str, PlainSerializer(printable)]


class Conflict(BaseModel):
    """One photograph in several files whose `labels`, by file, contradict each other. `excluded`: none is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: dict[FileName, tuple[str, ...]]
    kind: DuplicateKind
    excluded: bool

    def describe(self) -> str:
        """One file for each set of labels, and how many more there are."""
        examples: dict[tuple[str, ...], str] = {}
        for name, labels in self.labels.items():
            examples.setdefault(labels, name)
        told = " but ".join(f"{name} is {LABEL_SEPARATOR.join(labels)}" for labels, name in examples.items())
        more = len(self.labels) - len(examples)
        return told + (f" ({more:,} more of the same picture)" if more else "")


def find_conflicts(samples: Sequence[Sample], found: Duplicates, *, some_unknown: bool) -> tuple[Conflict, ...]:
    """Contradictions within each group of identical images, then between two images that are a copy or alike.

    `some_unknown`: not all labels of an image are stated, so two different defects may both be true.
    """
    identical = connected_groups(pair[:2] for pair in found.pairs if pair.kind == "identical")
    group_of = {number: group for group in identical for number in group}
    candidates: list[tuple[list[int], list[int], DuplicateKind]] = [(group, group, "identical") for group in identical]
    candidates += [
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
        for first, second, kind in candidates
        if _contradict(_label_sets(samples, first), _label_sets(samples, second), some_unknown=some_unknown)
    )


def _label_sets(samples: Sequence[Sample], numbers: Iterable[int]) -> set[tuple[str, ...]]:
    return {samples[number].labels for number in numbers}


def _contradict(first: set[tuple[str, ...]], second: set[tuple[str, ...]], *, some_unknown: bool) -> bool:
    """Whether any label set in `first` and any in `second` can't both be true of one photograph."""
    different = ((one, other) for one in first for other in second if one != other)
    return any(not some_unknown or GOOD in one or GOOD in other for one, other in different)
