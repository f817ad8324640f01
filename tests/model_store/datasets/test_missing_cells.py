"""Tables with cells that hold no value, rows of files that are no images, and tables that are absurdly wide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_store.datasets.dataset import Dataset, load_dataset
from shared.errors import BadDataset
from tests.model_store.datasets.test_label_tables import labels_of, remarks, write_images

A, B, C = "img/a.png", "img/b.png", "img/c.png"


def loaded(root: Path, text: str, *, name: str = "labels.csv", good_class: str | None = None) -> Dataset:
    write_images(root).joinpath(name).write_text(text)
    return load_dataset(root, good_class=good_class)


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "null", "NULL", "<NA>", "NA", "N/A", "#N/A", "\"['nan']\""])
def test_an_image_whose_label_is_missing_is_unlabeled_and_counted(tmp_path: Path, cell: str) -> None:
    dataset = loaded(tmp_path, f"filename,labels\n{A},good\n{B},{cell}\n{C},no cap\n")
    assert labels_of(dataset) == {A: ("good",), C: ("no cap",)}
    assert (dataset.classes, dataset.unlabelled) == (("good", "no cap"), (B,))
    assert "labels.csv: 1 row without a label (an empty cell, `NaN` or the like), not used. Write `good`" in remarks(
        dataset
    )


@pytest.mark.parametrize("value", ["null", "NaN", '""', '"nan"', '["nan"]'])
def test_a_label_may_be_missing_in_json_too(tmp_path: Path, value: str) -> None:
    lines = f'{{"filename": "{A}", "labels": {value}}}\n{{"filename": "{B}", "labels": "bent", "camera": {value}}}\n'
    if value.startswith("["):
        lines = lines.replace(f', "camera": {value}', "")
    dataset = loaded(tmp_path, lines, name="labels.jsonl")
    assert labels_of(dataset) == {B: ("bent",)}
    assert [sample.camera for sample in dataset.samples] == [None]
    assert "labels.jsonl: 1 row without a label" in remarks(dataset)


def test_a_folder_may_have_such_a_name(tmp_path: Path) -> None:
    dataset = load_dataset(write_images(tmp_path, "nan/1.png", "good/1.png"))
    assert dataset.classes == ("good", "nan")


def test_none_is_not_missing_but_told(tmp_path: Path) -> None:
    """People write it where a bottle has no defect, and programs where they know no label."""
    dataset = loaded(tmp_path, f"filename,labels\n{A},None\n{B},no cap\n")
    assert dataset.classes == ("None", "no cap")
    assert "give --good-class 'None'; if it means that the label is missing, leave the cell empty" in remarks(dataset)
    assert labels_of(load_dataset(tmp_path, good_class="none"))[A] == ("good",)


def test_cameras_and_splits_may_be_missing(tmp_path: Path) -> None:
    rows = f"{A},good,nan,nan,nan\n{B},bent,c1,train,0\n{C},bent,,,1\n"
    dataset = loaded(tmp_path, f"filename,labels,camera,split,is_test\n{rows}")
    assert [sample.camera for sample in dataset.samples] == [None, "c1", None]
    assert [sample.held_out for sample in dataset.samples] == [False, False, True]
    maybe = f"filename,labels,fold\n{A},good,nan\n{B},bent,train\n{C},bent,test\n"
    assert [sample.held_out for sample in loaded(tmp_path, maybe).samples] == [False, False, True]


def test_a_missing_value_beside_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="line 2: 'NaN' beside other labels stands for a value that is missing"):
        loaded(tmp_path, f"filename,labels\n{A},no cap|NaN\n")


def test_columns_of_classes_without_any_value_say_nothing(tmp_path: Path) -> None:
    dataset = loaded(tmp_path, f"filename,bent,no cap\n{A},nan,NaN\n{B},1,0\n{C},,\n")
    assert labels_of(dataset) == {B: ("bent",), C: ("good",)}
    assert "1 row without a label" in remarks(dataset)
    assert "1 row without a 1, read as `good`" in remarks(dataset)
    with pytest.raises(BadDataset, match="line 2: the column 'no cap' has 'nan', but the columns of classes hold 0 or"):
        loaded(tmp_path, f"filename,bent,no cap\n{A},1,nan\n")


@pytest.mark.parametrize(("column", "good_class"), [("good", None), ("OK", None), ("sauber", "Sauber")])
def test_a_row_without_a_1_is_not_good_if_a_column_says_what_is_good(
    tmp_path: Path, column: str, good_class: str | None
) -> None:
    table = f"filename,{column},no cap\n{A},1,0\n{B},0,0\n{C},0,1\n"
    dataset = loaded(tmp_path, table, good_class=good_class)
    assert set(labels_of(dataset)) == {A, C}
    assert dataset.unlabelled == (B,)
    told = "1 row without a 1, although a column says which images are `good`: without a label, not used"
    assert told in remarks(dataset)


def test_rows_of_hidden_files_and_those_of_the_system_are_told_and_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, "img/a.png", "img/Thumbs.db", "img/.hidden.png", "@eaDir/a.png")
    rows = f"{A},good\nimg/Thumbs.db,good\nimg\\.hidden.png,bent\n@eaDir/a.png,bent\nThumbs.db,bent\n"
    dataset = loaded(tmp_path, f"filename,labels\n{rows}")
    assert set(labels_of(dataset)) == {A}
    told = "labels.csv: hidden files, and those of the system, are left out, although rows name them: 'img/Thumbs.db'"
    assert told in remarks(dataset) and "'@eaDir/a.png' and 1 more" in remarks(dataset)
    with pytest.raises(BadDataset, match=r"file 'README\.txt' does not exist"):
        loaded(tmp_path, f"filename,labels\n{A},good\nREADME.txt,good\n")


@pytest.mark.parametrize("columns", [5_001, 40_000, 100_000])
@pytest.mark.parametrize("is_json", [False, True])
def test_an_absurdly_wide_table_is_refused(tmp_path: Path, columns: int, is_json: bool) -> None:
    names = [f"class {number}" for number in range(columns)]
    row = {"filename": A} | dict.fromkeys(names, 0)
    text = json.dumps(row) if is_json else ",".join(row) + "\n" + ",".join(map(str, row.values()))
    limit = f"{columns + 1:,} columns, but a table of labels may have 5,000. Give each image's labels in one column"
    long = "the first line has more than 500,000 characters, so it is no header of a table of labels"
    with pytest.raises(BadDataset, match=limit if is_json or columns < 100_000 else long):
        loaded(tmp_path, text, name="labels.jsonl" if is_json else "labels.csv")


def test_lines_of_json_that_each_have_other_fields_are_refused_at_the_limit(tmp_path: Path) -> None:
    lines = [json.dumps({"filename": A, "labels": "good", f"field {number}": 1}) for number in range(5_100)]
    with pytest.raises(BadDataset, match=r"line 4999: 5,001 columns"):
        loaded(tmp_path, "\n".join(lines), name="labels.jsonl")
