"""The columns of a table that say which split an image is in, under any of their usual names."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.datasets.dataset import Dataset, load_dataset
from shared.errors import BadDataset
from tests.model_store.datasets.test_given_splits import parts
from tests.model_store.datasets.test_label_tables import remarks, write_images

EXPECTED = {"img/a.png": "train", "img/b.png": "validation", "img/c.png": "test"}


def dataset_of(folder: Path, header: str, *rows: str, name: str = "labels.csv") -> Dataset:
    write_images(folder)
    lines = [f"img/{letter}.png,{row}" for letter, row in zip("abc", rows, strict=True)]
    (folder / name).write_text("\n".join([f"filename,{header}", *lines]))
    return load_dataset(folder)


@pytest.mark.parametrize("column", ["split", "set", "Dataset", "phase", "subset", "fold", "data_split", "partition"])
def test_columns_of_words(tmp_path: Path, column: str) -> None:
    dataset = dataset_of(tmp_path, f"labels,{column}", "good,train", "no cap,valid", "good,test")
    assert parts(dataset) == EXPECTED
    assert "not read" not in remarks(dataset)


@pytest.mark.parametrize("column", ["set", "phase"])
def test_columns_of_words_beside_columns_of_classes(tmp_path: Path, column: str) -> None:
    dataset = dataset_of(tmp_path, f"good,no cap,{column}", "1,0,train", "0,1,valid", "1,0,test")
    assert (parts(dataset), dataset.classes) == (EXPECTED, ("good", "no cap"))


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("train,valid,test", ("1,0,0", "0,1,0", "0,0,1")),
        ("is_valid,is_test", ("False,False", "True,False", "false,TRUE")),
        ("isTrain,is_val", ("1,0", "0,1", "0,0")),
    ],
)
@pytest.mark.parametrize(("labels", "label_rows"), [("labels", ("good", "x", "x")), ("good,x", ("1,0", "0,1", "0,1"))])
def test_columns_of_0_and_1(
    tmp_path: Path, header: str, rows: tuple[str, ...], labels: str, label_rows: tuple[str, ...]
) -> None:
    lines = [f"{label},{row}" for label, row in zip(label_rows, rows, strict=True)]
    dataset = dataset_of(tmp_path, f"{labels},{header}", *lines)
    assert (parts(dataset), dataset.classes) == (EXPECTED, ("good", "x"))
    assert "not read" not in remarks(dataset)


def test_a_column_of_0_and_1_in_json(tmp_path: Path) -> None:
    (write_images(tmp_path) / "labels.jsonl").write_text(
        '{"file": "img/a.png", "label": "good", "is_test": false}\n{"file": "img/b.png", "label": "x", "is_test": null}'
        '\n{"file": "img/c.png", "label": "x", "is_test": true}\n'
    )
    assert parts(load_dataset(tmp_path)) == {"img/a.png": "train", "img/b.png": "train", "img/c.png": "test"}


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("labels,test", ("x,1", "x,A17", "x,0"), "line 3: the column 'test' has 'a17', but should say by 0 or 1"),
        ("labels,train,test", ("x,1,0", "x,1,1", "x,0,1"), "line 3: is in two splits, test and train"),
        ("labels,split,is_test", ("x,train,0", "x,train,1", "x,test,1"), "line 3: is in two splits, test and train"),
        ("labels,set", ("x,train", "x,line 3", "x,test"), "the column 'set' has 'line 3' beside names of splits"),
        ("labels,stage", ("x,train", "x,", "x,test"), "the column 'stage' holds names of splits.* Call it `split`"),
    ],
)
def test_what_may_be_a_split_is_refused(tmp_path: Path, header: str, rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadDataset, match=message):
        dataset_of(tmp_path, header, *rows)


def test_columns_that_name_no_splits_are_not_read(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, "labels,fold,stage", "good,0,train", "x,1,press", "x,2,test")
    assert set(parts(dataset).values()) == {"train"}
    assert "columns that are not read: 'fold', 'stage'" in remarks(dataset)


def test_a_class_called_fold_stays_a_class(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, "good,fold", "1,0", "0,1", "0,1")
    assert dataset.classes == ("fold", "good")


def test_a_json_line_with_a_repeated_field_is_refused(tmp_path: Path) -> None:
    (write_images(tmp_path) / "labels.jsonl").write_text('{"file": "img/a.png", "label": "good", "label": "x"}\n')
    with pytest.raises(BadDataset, match=r"line 1 can't be read as JSON: it has the field 'label' twice: remove one"):
        load_dataset(tmp_path)
