"""Folders above or inside the classes never become classes without a word."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from model_store.datasets.dataset import load_dataset
from shared.errors import BadDataset
from tests.model_store.datasets.test_dataset_files import zip_of
from tests.model_store.datasets.test_given_splits import parts
from tests.model_store.datasets.test_label_tables import remarks, write_images


def tree(*levels: tuple[str, ...]) -> list[str]:
    return [f"{'/'.join(folders)}/{number}.png" for number, folders in enumerate(product(*levels))]


CLASSES = ("good", "no cap")
UNCLEAR = {
    "cameras": tree(("cam1", "cam2"), CLASSES),
    "cameras, spelled otherwise": ["cam1/good/1.png", "cam1/no cap/2.png", "cam2/Good/3.png", "cam2/No_Cap/4.png"],
    "one camera has a class alone": ["cam1/good/1.png", "cam2/good/2.png", "cam2/no cap/3.png"],
    "no class is good": tree(("cam1", "cam2"), ("bent", "no cap")),
    "a third class": [*tree(("cam1", "cam2"), ("bent", "no cap")), "cam2/dirty/9.png"],
    "a folder between": tree(("cam1", "cam2"), ("pictures",), CLASSES),
    "folds": tree(("fold0", "fold1"), CLASSES),
    "cameras in splits": tree(("train", "test"), ("cam1", "cam2"), CLASSES),
    "splits in cameras": tree(("cam1", "cam2"), ("train", "test"), CLASSES),
    "unknown names of splits": tree(("lernen", "prüfen"), CLASSES),
    "a class beside cameras": [*tree(("cam1", "cam2"), CLASSES), "good/9.png"],
}


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize("case", UNCLEAR)
def test_two_levels_that_may_be_the_classes_are_refused(tmp_path: Path, case: str, is_zip: bool) -> None:
    folder = write_images(tmp_path / "set", *UNCLEAR[case])
    with pytest.raises(BadDataset, match=r"the folders .* each hold .* unclear which of them are the classes"):
        load_dataset(zip_of(folder, UNCLEAR[case]) if is_zip else folder)


def test_the_message_names_the_folders_and_the_mend(tmp_path: Path) -> None:
    text = (
        "the folders 'cam1', 'cam2' each hold 'good', 'no cap', so it is unclear which of them are the classes. If "
        "'good', 'no cap' are, move their images into one folder per class, or, if 'cam1', 'cam2' are splits, call "
        "these train, valid and test."
    )
    with pytest.raises(BadDataset, match=re.escape(text)):
        load_dataset(write_images(tmp_path, *UNCLEAR["cameras"]))


@pytest.mark.parametrize(
    "names",
    [
        tree(CLASSES, ("day 1", "day 2")),
        tree(("ok", "no cap"), ("day 1", "day 2"), ("cam1", "cam2")),
        tree(("bent", "no cap"), ("day 1",)),
        ["bent/day 1/1.png", "bent/day 2/2.png", "no cap/day 3/3.png", "no cap/day 4/4.png"],
        tree(CLASSES, ("train_v2", "test_v2")),
    ],
)
def test_folders_inside_of_clear_classes_do_not_matter(tmp_path: Path, names: list[str]) -> None:
    dataset = load_dataset(write_images(tmp_path, *names))
    assert dataset.classes == tuple(sorted({name.split("/")[0] for name in names}))


@pytest.mark.parametrize(
    "splits",
    [
        ("train_dataset", "test_dataset"),
        ("train2", "test2"),
        ("train_v2", "test_v2"),
        ("01_train", "02_test"),
        ("my_train", "my_test"),
        ("train (1)", "test (1)"),
        ("ｔｒａｉｎ", "ｔｅｓｔ"),  # noqa: RUF001
        ("trn", "tst"),
    ],
)
def test_other_spellings_of_splits(tmp_path: Path, splits: tuple[str, str]) -> None:
    dataset = load_dataset(write_images(tmp_path, *tree(splits, CLASSES)))
    assert dataset.classes == CLASSES
    assert {name.split("/")[0]: part for name, part in parts(dataset).items()} == {
        splits[0]: "train",
        splits[1]: "test",
    }


def test_a_folder_with_a_word_for_testing_inside_a_class_is_told(tmp_path: Path) -> None:
    dataset = load_dataset(write_images(tmp_path, *tree(CLASSES, ("old test", "rest"))))
    assert "2 images in a folder called test are trained on too" in remarks(dataset)
