"""Which images are for training and which for validation."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.datasets.dataset import load_dataset
from model_store.datasets.splitting import split
from tests.kit import BOTTLES

LABEL_SETS = [("good",), ("no cap",), ("pigmented",), ("no cap", "pigmented")]


def classes_of(labels: list[tuple[str, ...]], chosen: np.ndarray) -> set[str]:
    return {name for index in chosen for name in labels[index]}


def test_a_split_is_stratified_and_repeatable() -> None:
    labels = [("good",)] * 50 + [("no cap",)] * 30 + [("no cap", "pigmented")] * 20
    chosen = split(labels, seed=123)
    again, other = split(labels, seed=123), split(labels, seed=124)
    assert chosen.validation.tolist() == again.validation.tolist() != other.validation.tolist()
    assert sorted([*chosen.train, *chosen.validation]) == list(range(100))
    counts = [sum(labels[index] == kind for index in chosen.validation) for kind in sorted(set(labels))]
    assert counts == [10, 6, 4]


def test_the_split_of_the_bottle_frames_stays_the_same() -> None:
    """Metrics of different releases are compared on this split."""
    labels = [sample.labels for sample in load_dataset(BOTTLES).samples]
    single = [names for names in labels if len(names) == 1]
    chosen = {
        len(some): hashlib.sha256(json.dumps(split(some, seed=123).validation.tolist()).encode()).hexdigest()[:16]
        for some in (labels, single)
    }
    assert chosen == {400: "464c9338e7a1f7b4", 258: "f9d7e521877dffaf"}
    for some in (labels, single):
        grouped = split(some, seed=123, groups=[7 * index for index in range(len(some))])
        assert grouped.validation.tolist() == split(some, seed=123).validation.tolist()
        every = {name for names in some for name in names} - {"good"}
        contrasted = split(some, seed=123, absent=[every.difference(names) for names in some])
        assert contrasted.validation.tolist() == split(some, seed=123).validation.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_a_class_of_one_image_is_in_training(seed: int) -> None:
    labels = [("good",)] * 9 + [("no cap",)]
    assert 9 in split(labels, seed=seed).train


@pytest.mark.parametrize("seed", range(20))
def test_a_class_of_two_images_is_on_both_sides(seed: int) -> None:
    labels = [("good",)] * 40 + [("no cap",)] * 2 + [("pigmented",)] * 2
    chosen = split(labels, seed=seed)
    for part in chosen:
        assert classes_of(labels, part) == {"good", "no cap", "pigmented"}


@pytest.mark.parametrize("seed", range(20))
def test_of_two_images_without_a_defect_one_is_on_each_side(seed: int) -> None:
    labels = [("m",)] * 20 + [("a", "m")] * 20 + [("a",), ("z",)] + [("m", "z")] * 20
    absent = [{"a", "m", "z"}.difference(names) for names in labels]
    chosen = split(labels, seed=seed, absent=absent)
    for part in chosen:
        assert any("m" in absent[index] for index in part)


@pytest.mark.parametrize("seed", range(20))
def test_a_fifth_of_all_rare_label_sets_together_is_for_validation(seed: int) -> None:
    defects = ["a", "b", "c", "d", "e"]
    rare = [tuple(sorted((one, other, third))) for one in defects for other in defects for third in defects]
    labels = [("good",)] * 100 + sorted(
        {names for names in rare if len(set(names)) == 3}
    ) * 2  # ten label sets with two images each
    chosen = split(labels, seed=seed)
    assert len(chosen.validation) == 24
    assert 3 <= sum(index >= 100 for index in chosen.validation) <= 6
    assert classes_of(labels, chosen.validation) == {"good", *defects}


@pytest.mark.parametrize("seed", range(20))
def test_a_group_is_never_on_both_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [LABEL_SETS[number] for number in rng.integers(0, 4, 200)]
    groups = rng.integers(0, 120, 200).tolist()
    chosen = split(labels, seed=seed, groups=groups)
    sides = [{groups[index] for index in part} for part in chosen]
    assert not sides[0] & sides[1]
    assert sorted([*chosen.train, *chosen.validation]) == list(range(200))
    assert 25 <= len(chosen.validation) <= 55
    assert classes_of(labels, chosen.validation) == classes_of(labels, chosen.train) == {"good", "no cap", "pigmented"}


@pytest.mark.parametrize("seed", range(20))
def test_a_group_that_would_dominate_validation_is_in_training(seed: int) -> None:
    labels = [("good",)] * 60 + [("no cap",)] * 60
    groups = [0] * 30 + list(range(30, 120))  # a burst of thirty frames of one bottle
    chosen = split(labels, seed=seed, groups=groups)
    assert set(range(30)) <= set(chosen.train)
    assert len(chosen.validation) == 18


@pytest.mark.parametrize("seed", range(20))
def test_if_all_groups_are_large_at_least_one_is_for_validation(seed: int) -> None:
    labels = [(("good",), ("no cap",))[bottle % 2] for bottle in range(8) for _ in range(20)]
    chosen = split(labels, seed=seed, groups=[bottle for bottle in range(8) for _ in range(20)])
    assert len(chosen.validation) >= 20
    assert len(chosen.validation) % 20 == 0
    assert classes_of(labels, chosen.train) == {"good", "no cap"}


def test_images_to_leave_out_are_on_neither_side() -> None:
    labels = [("good",)] * 30 + [("no cap",)] * 30
    chosen = split(labels, seed=1, leave_out={0, 31, 59})
    assert sorted([*chosen.train, *chosen.validation]) == sorted(set(range(60)) - {0, 31, 59})
    assert chosen.train.dtype == chosen.validation.dtype == np.intp


def test_without_samples_both_sides_are_empty() -> None:
    for chosen in (split([], seed=1), split([("good",)], seed=1, leave_out=[0])):
        assert len(chosen.train) == len(chosen.validation) == 0


def test_a_group_is_needed_for_each_sample() -> None:
    with pytest.raises(ValueError, match="zip"):
        split([("good",)] * 3, seed=1, groups=[1, 2])


@given(
    st.lists(st.tuples(st.sampled_from(LABEL_SETS), st.integers(0, 12)), max_size=60),
    st.integers(0, 2**32 - 1),
)
def test_any_split_covers_all_images_and_keeps_each_class_in_training(
    rows: list[tuple[tuple[str, ...], int]], seed: int
) -> None:
    labels, groups = [names for names, _ in rows], [group for _, group in rows]
    chosen = split(labels, seed=seed, groups=groups)
    assert sorted([*chosen.train, *chosen.validation]) == list(range(len(rows)))
    assert not {groups[index] for index in chosen.train} & {groups[index] for index in chosen.validation}
    assert classes_of(labels, chosen.train) == {name for names in labels for name in names}
