"""Splits images into training and validation: 80/20, by a seed, with every class on both sides.

Images that show the same photograph go to the same side, because a model that is validated on copies of its training
images seems better than it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from shared.arrays import Indices

VALIDATION_SHARE = 0.2
# A group larger than this share of all images goes to training: in validation its many copies would be over a quarter
# of the images, and dominate the metrics.
_LARGEST_GROUP = 0.25 * VALIDATION_SHARE


class Split(NamedTuple):
    """Indices into the samples that were split, each ascending."""

    train: Indices
    validation: Indices


class _Unit(NamedTuple):
    """One sample, or a group of samples that goes to one side as a whole."""

    members: tuple[int, ...]
    labels: tuple[str, ...]  # of its first sample; units with the same labels are shuffled among each other
    facts: frozenset[tuple[str, bool]]  # (label, whether it applies), for each sample and label where that is known


def split(
    labels: Sequence[tuple[str, ...]],
    *,
    seed: int,
    groups: Sequence[int] | None = None,
    leave_out: Collection[int] = (),
    absent: Sequence[Collection[str]] | None = None,
) -> Split:
    """Split samples by their labels; the same arguments give the same split.

    The samples are ordered by their set of labels and shuffled within each set, and every fifth goes to validation. So
    each set contributes a fifth of its images, to within one image, and small sets contribute a fifth together. If a
    class would have no training image, one of its images stays in training. If it would have no validation image, one
    goes to validation, provided that training has another.

    Args:
        labels: the labels of each sample.
        seed: of the shuffling.
        groups: a number for each sample; samples with the same number go to the same side, and the labels of the first
            of them stand for all. None, or all different, means no groups. A group of more than a twentieth of all
            images goes to training, as long as the other samples are at least half of all.
        leave_out: samples that go to neither side.
        absent: the labels that are known not to apply to each sample. Each side gets at least one such sample per
            label, as it does per class.

    Raises:
        ValueError: `labels`, `groups` and `absent` differ in length.
    """
    rng = np.random.default_rng(seed)
    facts = _facts(labels, [()] * len(labels) if absent is None else absent)
    units = _units(labels, facts, range(len(labels)) if groups is None else groups, frozenset(leave_out))
    if not units:
        empty = np.empty(0, np.intp)
        return Split(train=empty, validation=empty)
    by_labels: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number in _validation_candidates(units):
        by_labels[units[number].labels].append(number)
    order = np.concatenate([rng.permutation(by_labels[names]) for names in sorted(by_labels)])
    count = round(len(order) * VALIDATION_SHARE)
    positions = (np.arange(count) + rng.random()) * len(order) / max(count, 1)
    validation = set(order[positions.astype(int)].tolist())
    _keep_one_of_each_in_training(units, validation)
    if validation:  # otherwise there are too few images for any validation
        _add_one_of_each_to_validation(units, validation, order)
    return Split(
        train=_members(unit for number, unit in enumerate(units) if number not in validation),
        validation=_members(units[number] for number in validation),
    )


class HasPart(Protocol):
    """A sample that may lie in the dataset's own validation split."""

    @property
    def validation(self) -> bool:
        """Whether it does."""


def given_split(samples: Sequence[HasPart], rows: Indices) -> Split:
    """Split these rows of `samples` as the dataset itself does."""
    is_validation = np.array([samples[row].validation for row in rows], bool)
    return Split(train=rows[~is_validation], validation=rows[is_validation])


def _facts(labels: Sequence[tuple[str, ...]], absent: Sequence[Collection[str]]) -> list[set[tuple[str, bool]]]:
    return [
        {(name, True) for name in names} | {(name, False) for name in others}
        for names, others in zip(labels, absent, strict=True)
    ]


def _units(
    labels: Sequence[tuple[str, ...]],
    facts: Sequence[set[tuple[str, bool]]],
    groups: Sequence[int],
    leave_out: frozenset[int],
) -> list[_Unit]:
    members: dict[int, list[int]] = defaultdict(list)
    for index, (_, group) in enumerate(zip(labels, groups, strict=True)):
        if index not in leave_out:
            members[group].append(index)
    return [
        _Unit(tuple(indices), labels[indices[0]], frozenset(fact for index in indices for fact in facts[index]))
        for indices in members.values()
    ]


def _validation_candidates(units: Sequence[_Unit]) -> list[int]:
    """The units that may go to validation: all but the large ones, unless the small ones hold less than half of all."""
    images = sum(len(unit.members) for unit in units)
    small = [number for number, unit in enumerate(units) if len(unit.members) <= max(1.0, _LARGEST_GROUP * images)]
    enough = 2 * sum(len(units[number].members) for number in small) >= images
    return small if enough else list(range(len(units)))


def _keep_one_of_each_in_training(units: Sequence[_Unit], validation: set[int]) -> None:
    trained = Counter(fact for number, unit in enumerate(units) if number not in validation for fact in unit.facts)
    for number in sorted(validation):
        if any(trained[fact] == 0 for fact in units[number].facts):
            validation.remove(number)
            trained.update(units[number].facts)


def _add_one_of_each_to_validation(units: Sequence[_Unit], validation: set[int], order: Indices) -> None:
    """For each fact that validation lacks, move its first unit of `order` there, if training has another."""
    trained = Counter(fact for number, unit in enumerate(units) if number not in validation for fact in unit.facts)
    validated = {fact for number in validation for fact in units[number].facts}
    for number in order.tolist():
        facts = units[number].facts
        if number not in validation and not facts <= validated and all(trained[fact] > 1 for fact in facts):
            validation.add(number)
            trained.subtract(facts)
            validated |= facts


def _members(units: Iterable[_Unit]) -> Indices:
    return np.array(sorted(index for unit in units for index in unit.members), np.intp)
