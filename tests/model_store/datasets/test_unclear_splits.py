"""Images of `test` are never trained on without a word, wherever the folder lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.datasets.dataset import load_dataset
from shared.errors import BadDataset
from tests.model_store.datasets.test_dataset_files import zip_of
from tests.model_store.datasets.test_given_splits import parts
from tests.model_store.datasets.test_label_tables import remarks, write_images

BELOW = tuple(f"{label}/{split}/1.png" for label in ("good", "no cap") for split in ("train", "test"))


def made(path: Path, names: tuple[str, ...], *, is_zip: bool) -> Path:
    folder = write_images(path / "set", *names)
    return zip_of(folder, list(names)) if is_zip else folder


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((*BELOW, "good/3.png"), r"'good/3\.png' lies? outside of the splits .*'good/test', 'good/train'"),
        ((*BELOW, "good/old/3.png"), r"'good/old/3\.png' lies? outside of the splits"),
        ((*BELOW, "bent/3.png"), r"'bent/3\.png' lies? outside of the splits"),
        (("good/1.png", "good/test/2.png", "no cap/3.png"), r"such as 'good/test'.* another name"),
        (("good/1.png", "good/valid/2.png", "no cap/3.png"), r"'good/1\.png' and 1 more lie outside .*'good/valid'"),
    ],
)
def test_an_image_outside_of_the_splits_of_the_classes_is_refused(
    tmp_path: Path, names: tuple[str, ...], message: str, is_zip: bool
) -> None:
    with pytest.raises(BadDataset, match=message):
        load_dataset(made(tmp_path, names, is_zip=is_zip))


@pytest.mark.parametrize("is_zip", [False, True])
def test_an_image_beside_the_splits_is_told(tmp_path: Path, is_zip: bool) -> None:
    names = ("train/good/1.png", "train/no cap/2.png", "test/good/3.png", "stray.png")
    dataset = load_dataset(made(tmp_path, names, is_zip=is_zip))
    assert parts(dataset)["test/good/3.png"] == "test"
    assert dataset.unlabelled == ("stray.png",)


@pytest.mark.parametrize(
    "names",
    [
        ("good/day 1/train/1.png", "good/day 1/test/2.png", "no cap/day 1/train/3.png"),
        ("good/test/2.png", "no cap/test/3.png"),
    ],
)
def test_a_test_folder_that_is_no_split_is_told(tmp_path: Path, names: tuple[str, ...]) -> None:
    dataset = load_dataset(write_images(tmp_path, *names))
    assert set(parts(dataset).values()) == {"train"}
    assert "trained on too: " in remarks(dataset)
    assert "out, name" in remarks(dataset)


def test_splits_in_a_folder_beside_a_table(tmp_path: Path) -> None:
    names = ("img/train/1.png", "img/train/2.png", "img/test/3.png")
    rows = [f"{name},{label}" for name, label in zip(names, ("good", "no cap", "good"), strict=True)]
    (write_images(tmp_path, *names) / "labels.csv").write_text("\n".join(["filename,labels", *rows]))
    assert parts(load_dataset(tmp_path)) == {names[0]: "train", names[1]: "train", names[2]: "test"}


@pytest.mark.parametrize("more", ["", "other/d.png,good,train\n"])
def test_a_row_without_its_split_is_in_that_of_its_folder(tmp_path: Path, more: str) -> None:
    (write_images(tmp_path, "train/a.png", "test/b.png", "test/c.png", "other/d.png") / "labels.csv").write_text(
        f"filename,labels,split\ntrain/a.png,good,train\ntest/b.png,no cap,train\ntest/c.png,good,\n{more}"
    )
    found = parts(load_dataset(tmp_path))
    assert (found["test/c.png"], found["test/b.png"], found["train/a.png"]) == ("test", "train", "train")


def test_a_table_of_train_alone_leaves_test_unlabeled_and_told(tmp_path: Path) -> None:
    write_images(tmp_path, "train/a.png", "train/b.png", "test/c.png")
    (tmp_path / "train" / "labels.csv").write_text("filename,labels\na.png,good\nb.png,no cap\n")
    dataset = load_dataset(tmp_path)
    assert set(parts(dataset)) == {"train/a.png", "train/b.png"}
    assert dataset.unlabelled == ("test/c.png",)


@pytest.mark.parametrize("name", ["held-out.txt", "heldout.txt", "held_out.csv", "good/Held_Out.txt", "holdout.txt"])
def test_a_list_of_held_out_images_that_is_not_read_is_refused(tmp_path: Path, name: str) -> None:
    (write_images(tmp_path, "good/1.png", "no cap/2.png") / name).write_text("good/1.png\n")
    with pytest.raises(BadDataset, match=rf"{name} seems to list held-out images, .* Call it held_out\.txt"):
        load_dataset(tmp_path)


def test_a_list_of_held_out_images_beside_a_wrapper_is_refused(tmp_path: Path) -> None:
    (write_images(tmp_path, "set/good/1.png", "set/no cap/2.png") / "held-out.txt").write_text("good/1.png\n")
    with pytest.raises(BadDataset, match=r"held-out\.txt seems .* Call it set/held_out\.txt"):
        load_dataset(tmp_path)
