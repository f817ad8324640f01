"""Whether the validation split that a dataset brings along can be used, and what then must not be trained on.

A model is validated on every class, and in `multi` on bottles with and without each defect; it is trained on the same.
If the dataset's own splits don't give both sides all of that, they aren't used, and the report says why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from model_store.bundle.policy import Mode
from model_store.datasets.dataset import Dataset, Sample

_SHOWN = 5


class ValidationSplit(NamedTuple):
    """`copies`: the training images that show an image of the split, and that image. `refused`: why it isn't used."""

    copies: dict[str, str]
    refused: str | None


def validation_split(
    dataset: Dataset,
    samples: Sequence[Sample],
    groups: Iterable[Sequence[Sample]],
    *,
    excluded: Collection[str],
    mode: Mode,
) -> ValidationSplit:
    """Check the validation split among `samples`.

    Args:
        dataset: the dataset of the samples.
        samples: the usable ones that are not held out.
        groups: samples that show one photograph.
        excluded: the names of samples that are not used anyway.
        mode: the mode of the model to train.
    """
    used = {sample.name: sample for sample in samples if sample.name not in excluded}
    if not any(sample.validation for sample in samples):
        return ValidationSplit({}, None)
    in_groups = ([sample for sample in group if sample.name in used] for group in groups)
    copies = copies_of(in_groups, is_original=lambda sample: sample.validation)
    facts: dict[bool, set[str]] = {True: set(), False: set()}  # of validation, and of training
    for sample in used.values():
        if sample.name not in copies:
            facts[sample.validation].update(_facts(dataset, sample, mode))
    for side, other, name in ((True, False, "validation"), (False, True, "training")):
        if lacking := sorted(facts[other] - facts[side]):
            more = f" and {len(lacking) - _SHOWN:,} more" if len(lacking) > _SHOWN else ""
            return ValidationSplit(
                {},
                f"the dataset's own validation split is not used, because {name} would have no image "
                f"{', '.join(lacking[:_SHOWN])}{more}. A fifth of all images that are not held out is chosen instead.",
            )
    return ValidationSplit(copies, None)


def copies_of(groups: Iterable[Sequence[Sample]], *, is_original: Callable[[Sample], bool]) -> dict[str, str]:
    """The other samples of each group with an original, and its first original."""
    copies: dict[str, str] = {}
    for group in groups:
        original = next((sample.name for sample in group if is_original(sample)), None)
        if original is not None:
            copies |= {sample.name: original for sample in group if not is_original(sample)}
    return copies


def _facts(dataset: Dataset, sample: Sample, mode: Mode) -> list[str]:
    """What a model can learn from the sample, or be measured by: the labels that it has, and those that it lacks."""
    absent = dataset.absent_labels(sample) if mode == "multi" else ()
    return [*(f"of {name!r}" for name in sample.labels), *(f"without {name!r}" for name in absent)]
