"""Which images are trained on and which are checked with: 80/20, by a seed, every kind of bottle in both.

Images that show the same photograph go to the same side: checked with a copy of what it learnt from, a model
looks better than it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VALIDATION_SHARE = 0.2
# A group larger than this share of all images is trained on: as a quarter of the validation images, its many copies
# would decide the figures.
_LARGEST_GROUP = 0.25 * VALIDATION_SHARE


class Split(NamedTuple):
    """Indices into the samples that were split, each ascending."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]


class _Unit(NamedTuple):
    """What goes to one side as a whole: one sample, or a group of them."""

    members: tuple[int, ...]
    labels: tuple[str, ...]  # of its first sample, by which it is drawn
    facts: frozenset[tuple[str, bool]]  # each label that applies to one of them, or that doesn't


def split(
    labels: Sequence[tuple[str, ...]],
    *,
    seed: int,
    groups: Sequence[int] | None = None,
    leave_out: Collection[int] = (),
    absent: Sequence[Collection[str]] | None = None,
) -> Split:
    """Split samples by their labels; the same arguments give the same split.

    Samples with the same set of labels are kept together, shuffled, and every fifth of that row is taken:
    each set gives its share within one image, and sets of a few images give a fifth of them all together. A class
    that would have no image to train on keeps one; one that would have none to be checked with gives one, if it
    has another.

    Args:
        labels: of each sample.
        seed: of the shuffling.
        groups: a number for each sample; those with the same number go to the same side, drawn by the labels of
            the first. None, or all different, is the split without groups. A group of more than a twentieth of all
            images is trained on, where the other ones are the more part.
        leave_out: samples that go to neither side.
        absent: labels that are known not to apply to each sample. Of these too one is trained on and one checked with,
            as of each class.

    Raises:
        ValueError: another number of groups, or of absent labels, than of labels.
    """
    rng = np.random.default_rng(seed)
    facts = _facts(labels, [()] * len(labels) if absent is None else absent)
    units = _units(labels, facts, range(len(labels)) if groups is None else groups, frozenset(leave_out))
    if not units:
        nothing = np.empty(0, np.intp)
        return Split(train=nothing, validation=nothing)
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number in _drawable(units):
        alike[units[number].labels].append(number)
    row = np.concatenate([rng.permutation(alike[names]) for names in sorted(alike)])
    count = round(len(row) * VALIDATION_SHARE)
    places = (np.arange(count) + rng.random()) * len(row) / max(count, 1)
    validation = set(row[places.astype(int)].tolist())
    _leave_one_of_each(units, validation)
    if validation:  # else there are too few images to check with at all
        _check_one_of_each(units, validation, row)
    return Split(
        train=_members(unit for number, unit in enumerate(units) if number not in validation),
        validation=_members(units[number] for number in validation),
    )


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


def _drawable(units: Sequence[_Unit]) -> list[int]:
    """The units that may be checked with: all but the large ones, unless too little would be left to draw from."""
    images = sum(len(unit.members) for unit in units)
    small = [number for number, unit in enumerate(units) if len(unit.members) <= max(1.0, _LARGEST_GROUP * images)]
    enough = 2 * sum(len(units[number].members) for number in small) >= images
    return small if enough else list(range(len(units)))


def _leave_one_of_each(units: Sequence[_Unit], validation: set[int]) -> None:
    trained = Counter(fact for number, unit in enumerate(units) if number not in validation for fact in unit.facts)
    for number in sorted(validation):
        if any(trained[fact] == 0 for fact in units[number].facts):
            validation.remove(number)
            trained.update(units[number].facts)


def _check_one_of_each(units: Sequence[_Unit], validation: set[int], row: NDArray[np.intp]) -> None:
    """Give each fact that validation lacks its first unit of the row, where the training can spare that."""
    trained = Counter(fact for number, unit in enumerate(units) if number not in validation for fact in unit.facts)
    checked = {fact for number in validation for fact in units[number].facts}
    for number in row.tolist():
        facts = units[number].facts
        if number not in validation and not facts <= checked and all(trained[fact] > 1 for fact in facts):
            validation.add(number)
            trained.subtract(facts)
            checked |= facts


def _members(units: Iterable[_Unit]) -> NDArray[np.intp]:
    return np.array(sorted(index for unit in units for index in unit.members), np.intp)
