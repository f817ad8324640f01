"""Folders such as train, valid and test are splits, not classes: what is in test is never trained on."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from model_store.bundle.policy import Mode
from model_store.datasets.dataset import Dataset, load_dataset
from model_store.datasets.given_splits import are_splits, part_of
from shared.errors import BadDataset
from tests.model_store.datasets.test_audit import frame, report_of, write_folders
from tests.model_store.datasets.test_label_tables import write_images

MODES: tuple[Mode, ...] = ("single", "multi")


def parts(dataset: Dataset) -> dict[str, str]:
    return {
        sample.name: "test" if sample.held_out else "validation" if sample.validation else "train"
        for sample in dataset.samples
    }


def splits_line(dataset: Dataset) -> str:
    return next((line for line in dataset.reading.lines() if "read as splits" in line), "")


@pytest.mark.parametrize(
    ("word", "part"),
    [
        *((word, "train") for word in ("trn", "TRAIN", "Training", "train_set", "train-data", "trainset")),
        *((word, "train") for word in ("train_dataset", "train2", "train_v2", "01_train", "my_train", "train (1)")),
        *((word, "test") for word in ("test_dataset", "test2", "test_v2", "02_test", "my_test", "ｔｅｓｔ", "tst")),  # noqa: RUF001
        *((word, "validation") for word in ("val", "valid", "Validation", "dev", "validation set", "val_images")),
        *((word, "test") for word in ("test", "Test", "testing", "testset", "hold-out", "Held Out", "holdout", "eval")),
        *(
            (word, None)
            for word in (
                "good",
                "no cap",
                "testy",
                "retest",
                "data",
                "images",
                "set",
                "trained",
                "v2",
                "fold0",
                "1",
                "leak test",
                "",
            )
        ),
    ],
)
def test_names_of_splits(word: str, part: str | None) -> None:
    assert part_of(word) == part


def test_a_single_folder_is_no_split() -> None:
    assert are_splits(["train", "test"])
    assert not are_splits(["test"])
    assert not are_splits(["train", "Training"])
    assert not are_splits(["train", "test", "good"])


FOLDERS = {
    "on top": "{split}/{label}/{number}.png",
    "on top, in a wrapper": "bottles.v1/export/{split}/{label}/{number}.png",
    "on top, a wrapper in each": "{split}/pictures/{label}/{number}.png",
    "below the classes": "{label}/{split}/{number}.png",
}


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize("splits", [("train", "valid", "test"), ("Training", "VAL", "hold-out")])
@pytest.mark.parametrize("pattern", FOLDERS)
def test_folders_of_splits(tmp_path: Path, pattern: str, splits: tuple[str, ...], is_zip: bool) -> None:
    names = [
        FOLDERS[pattern].format(split=split, label=label, number=number)
        for number, split in enumerate(splits)
        for label in ("good", "no cap")
    ]
    path = write_images(tmp_path / "set", *names, "set.yaml", "README.md")
    if is_zip:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for file in sorted(path.rglob("*.*")):
                if file.is_file():
                    archive.write(file, file.relative_to(path).as_posix())
        path = tmp_path / "set.zip"
    dataset = load_dataset(path)
    assert dataset.classes == ("good", "no cap")
    assert sorted(parts(dataset).values()) == ["test", "test", "train", "train", "validation", "validation"]
    assert all((splits[2] in name) == (part == "test") for name, part in parts(dataset).items())
    assert all(sample.labels[0] in sample.name for sample in dataset.samples)
    assert splits_line(dataset).endswith("2 images to train on, 2 to validate with, 2 held out (never trained on)")


TABLES = {
    "one table beside the folders": {
        "labels.csv": "filename,labels\ntrain/a.png,good\nvalid/b.png,no cap\ntest/c.png,good\n"
    },
    "a table in each folder": {
        "train/_classes.csv": "filename, good, no cap\na.png, 1, 0\n",
        "valid/_classes.csv": "filename, good, no cap\nb.png, 0, 1\n",
        "test/_classes.csv": "filename, good, no cap\nc.png, 1, 0\n",
    },
    "a column": {
        "labels.csv": "filename,labels,Split\ntrain/a.png,good,train\nvalid/b.png,no cap,VAL\ntest/c.png,good,test\n"
    },
    "a field": {
        "labels.jsonl": '{"file": "train/a.png", "label": "good"}\n{"file": "valid/b.png", "label": "no cap", "split": '
        '"val"}\n{"file": "test/c.png", "label": "good", "split": "holdout"}\n'
    },
}


@pytest.mark.parametrize("tables", TABLES)
def test_splits_of_tables(tmp_path: Path, tables: str) -> None:
    write_images(tmp_path, "train/a.png", "valid/b.png", "test/c.png")
    for name, text in TABLES[tables].items():
        (tmp_path / name).write_text(text)
    dataset = load_dataset(tmp_path)
    assert parts(dataset) == {"test/c.png": "test", "train/a.png": "train", "valid/b.png": "validation"}
    assert {sample.name: sample.labels for sample in dataset.samples}["valid/b.png"] == ("no cap",)
    assert splits_line(dataset)


def test_held_out_txt_adds_to_test(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{split}/{label}/1.png" for split in ("train", "val", "test") for label in ("a", "b")))
    (tmp_path / "held_out.txt").write_text("val/a/1.png\n")
    assert parts(load_dataset(tmp_path)) == {
        "test/a/1.png": "test",
        "test/b/1.png": "test",
        "train/a/1.png": "train",
        "train/b/1.png": "train",
        "val/a/1.png": "test",
        "val/b/1.png": "validation",
    }


def test_images_of_test_without_labels_are_told_and_not_used(tmp_path: Path) -> None:
    dataset = load_dataset(write_images(tmp_path, "train/good/1.png", "train/no cap/2.png", "test/3.png"))
    assert dataset.classes == ("good", "no cap")
    assert dataset.unlabelled == ("test/3.png",)


def test_a_lone_split_is_a_wrapper(tmp_path: Path) -> None:
    dataset = load_dataset(write_images(tmp_path, "test/good/1.png", "test/no cap/2.png"))
    assert parts(dataset) == {"good/1.png": "train", "no cap/2.png": "train"}
    assert dataset.reading.wrapper == "test"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train/1.png", "test/2.png"),
            r"images directly in 'test', 'train', which are names of splits.*train/good/|test/",
        ),
        (("good/1.png", "no cap/2.png", "test/3.png"), "'test' beside 'good', 'no cap': it is unclear .* another name"),
        (("train/a/1.png", "train/b/2.png", "c/3.png"), "'train' beside 'c': it is unclear"),
        (("train/images/1.png", "train/labels/1.txt", "val/images/2.png"), "as datasets of object detection do"),
        (("images/1.png", "labels/1.txt"), "as datasets of object detection do"),
    ],
)
def test_what_may_be_either_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadDataset, match=message):
        load_dataset(write_images(tmp_path, *names))


def test_a_folder_test_among_others_in_a_table_is_told(tmp_path: Path) -> None:
    (write_images(tmp_path, "a.png", "test/b.png") / "labels.csv").write_text(
        "filename,labels\na.png,good\ntest/b.png,no cap\n"
    )
    dataset = load_dataset(tmp_path)
    assert set(parts(dataset).values()) == {"train"}
    told = "\n".join(dataset.reading.lines())
    assert "1 image in a folder called test is trained on too: 'test/b.png'. To hold it out, name it in" in told


def split_folders(root: Path, *, copies: bool = False) -> Path:
    """Four frames of each class to train on, two to validate with, and two held out."""
    numbers = iter(range(100, 200))
    files = {
        f"{split}/{label}/{index}.jpg": frame(next(numbers))
        for split, count in (("train", 4), ("valid", 2), ("test", 2))
        for label in ("good", "no cap")
        for index in range(count)
    }
    if copies:
        files["train/good/copy of valid.jpg"] = frame(108, quality=85)
        files["train/good/copy of test.jpg"] = frame(112, mirrored=True)
    return write_folders(root, files)


@pytest.mark.parametrize("mode", MODES)
def test_the_given_validation_split_is_the_validation_set(tmp_path: Path, mode: Mode) -> None:
    path = split_folders(tmp_path / "set", copies=True)
    report = report_of(path, mode=mode)
    assert (report.images, report.held_out, report.validation, report.validation_refused) == (14, 4, 4, None)
    assert report.validation_copies == {"train/good/copy of valid.jpg": "valid/good/0.jpg"}
    assert report.held_out_copies == {"train/good/copy of test.jpg": "test/good/0.jpg"}
    assert report.excluded == ("train/good/copy of test.jpg", "train/good/copy of valid.jpg")
    assert "not trained on, because the validation split has the same photograph" in "\n".join(report.warnings())
    samples = [sample for sample in load_dataset(path).samples if not sample.held_out]
    rows = np.array([number for number, sample in enumerate(samples) if sample.name not in report.excluded])
    split = report.given_split(samples, rows)
    assert split is not None
    assert {samples[row].name.split("/")[0] for row in split.train} == {"train"}
    assert {samples[row].name.split("/")[0] for row in split.validation} == {"valid"}
    assert len(split.train) + len(split.validation) == 12


@pytest.mark.parametrize(("lacking", "side"), [("valid", "validation"), ("train", "training")])
def test_a_validation_split_without_a_class_is_not_used(tmp_path: Path, lacking: str, side: str) -> None:
    path = split_folders(tmp_path / "set")
    for file in (path / lacking / "no cap").iterdir():
        file.unlink()
    report = report_of(path, mode="single")
    assert report.validation_refused is not None
    assert f"split is not used, because {side} would have no image of 'no cap'" in report.validation_refused
    samples = [sample for sample in load_dataset(path).samples if not sample.held_out]
    assert report.given_split(samples, np.arange(len(samples))) is None
    assert report.validation_refused in report.warnings()


def test_a_dataset_without_splits_is_split_as_before(tmp_path: Path) -> None:
    report = report_of(write_folders(tmp_path / "set", {f"{name}/1.jpg": frame(1) for name in ("good", "no cap")}))
    assert (report.validation, report.given_split([], np.arange(0))) == (0, None)
