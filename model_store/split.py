"""Which images are trained on and which are checked with: 80/20, by a seed, every kind of bottle in both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VALIDATION_SHARE = 0.2


class Split(NamedTuple):
    """Indices into the samples that were split, each ascending."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]


def split(labels: Sequence[tuple[str, ...]], *, seed: int) -> Split:
    """Split samples by their labels; the same labels and seed give the same split.

    Samples with the same set of labels are kept together, shuffled, and every fifth of that row is taken:
    each set gives its share within one image. A class that would have no image to train on keeps one.
    """
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, names in enumerate(labels):
        groups[names].append(index)
    row = np.concatenate([rng.permutation(groups[names]) for names in sorted(groups)])
    count = round(len(row) * VALIDATION_SHARE)
    places = (np.arange(count) + rng.random()) * len(row) / max(count, 1)
    validation = set(row[places.astype(int)].tolist())
    _leave_one_of_each(labels, validation)
    chosen = np.isin(np.arange(len(labels)), list(validation))
    return Split(train=np.flatnonzero(~chosen), validation=np.flatnonzero(chosen))


def _leave_one_of_each(labels: Sequence[tuple[str, ...]], validation: set[int]) -> None:
    trained = Counter(name for index, names in enumerate(labels) if index not in validation for name in names)
    for index in sorted(validation):
        if any(trained[name] == 0 for name in labels[index]):
            validation.remove(index)
            trained.update(labels[index])
