"""Tables of labels as people and tools write them, and those that somebody made to take memory or to end a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_store.datasets.dataset import Dataset, load_dataset
from model_store.datasets.dataset_files import open_files
from model_store.datasets.label_tables import JSONL_FILE, LabelRow, LabelTable
from shared.errors import BadDataset
from tests.model_store.datasets.test_dataset_files import zip_of
from tests.model_store.tiny_backbone import picture

NAMES = ("img/a.png", "img/b.png", "img/c.png")


def write_images(root: Path, *names: str) -> Path:
    for number, name in enumerate(names or NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture("good", number))
    return root


def labels_of(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {sample.name: sample.labels for sample in dataset.samples}


def remarks(dataset: Dataset) -> str:
    return "\n".join(dataset.reading.lines())


EXPECTED = {"img/a.png": ("good",), "img/b.png": ("no cap",), "img/c.png": ("disfigured", "no cap")}
TABLES = {
    "commas": ("labels.csv", "filename,labels\nimg/a.png,good\nimg/b.png,no cap\nimg/c.png,no cap|disfigured\n"),
    "semicolons, as in Europe": (
        "labels.csv",
        "filename;labels\r\nimg/a.png;good\r\nimg/b.png;no cap\r\nimg/c.png;no cap,disfigured\r\n",
    ),
    "a line that names the separator": (
        "labels.csv",
        "sep=;\nfilename;labels\nimg/a.png;good\nimg/b.png;no cap\nimg/c.png;no cap|disfigured\n",
    ),
    "tabs": ("labels.tsv", "filename\tlabels\nimg/a.png\tgood\nimg/b.png\tno cap\nimg/c.png\tno cap|disfigured\n"),
    "capitals": ("Labels.CSV", "Filename,Labels\nimg/a.png,good\nimg/b.png,no cap\nimg/c.png,no cap|disfigured\n"),
    "competitions": ("LABELS.csv", "image,class\nimg/a.png,good\nimg/b.png,no cap\nimg/c.png,no cap|disfigured\n"),
    "an index, and empty columns": (
        "labels.csv",
        ",filename,label,\n0,img/a.png,good,\n1,img/b.png,no cap,\n2,img/c.png,no cap|disfigured,\n,,,\n",
    ),
    "blanks and quotes": (
        "labels.csv",
        '"filename", "labels"\n"./img/a.png", "good "\n"img/b.png", "no cap"\n"img/c.png", "disfigured|no cap"\n',
    ),
    "semicolons join labels": (
        "labels.csv",
        "filename,labels\nimg/a.png,good\nimg/b.png,no cap\nimg/c.png,no cap; disfigured\n",
    ),
    "lists of Python": (
        "labels.csv",
        "filename,labels\nimg/a.png,['good']\nimg/b.png,\"('no cap',)\"\nimg/c.png,\"['no cap', 'disfigured']\"\n",
    ),
    "lists of JSON": (
        "labels.csv",
        'filename,labels\nimg/a.png,"[""good""]"\nimg/b.png,no cap\nimg/c.png,"[""no cap"", ""disfigured""]"\n',
    ),
    "an annotation tool": (
        "labels.csv",
        "image,id,choice\nimg/a.png,1,good\nimg/b.png,2,no cap\n"
        'img/c.png,3,"{""choices"":[""no cap"",""disfigured""]}"\n',
    ),
    "a column per class": (
        "_classes.csv",
        "filename, good, no cap, disfigured\nimg/a.png, 1, 0, 0\nimg/b.png, 0, 1, 0\nimg/c.png, 0, 1, 1\n",
    ),
    "a column per defect": (
        "labels.csv",
        "filename,no cap,disfigured\nimg/a.png,0,0\nimg/b.png,1,0\nimg/c.png,1.0,true\n",
    ),
    "JSON, other fields": (
        "labels.jsonl",
        '{"image": "img/a.png", "label": "good"}\n{"file": "img/b.png", "class": ["no cap"], "score": 1}\n'
        '{"image": "img/c.png", "label": "no cap;disfigured"}\n',
    ),
    "JSON, a field per class": (
        "Labels.JSONL",
        '{"image": "img/a.png", "no cap": 0, "disfigured": false}\n{"image": "img/b.png", "no cap": 1}\n'
        '{"image": "img/c.png", "no cap": true, "disfigured": 1}\n',
    ),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_as_they_are_written(tmp_path: Path, name: str, encoding: str) -> None:
    file, text = TABLES[name]
    write_images(tmp_path).joinpath(file).write_text(text, encoding=encoding)
    dataset = load_dataset(tmp_path)
    assert labels_of(dataset) == EXPECTED
    assert dataset.classes == ("disfigured", "good", "no cap")
    assert dataset.lists == (tmp_path / file,)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("commas", ""),
        ("semicolons, as in Europe", "labels.csv: labels joined by `,` are read as several labels (1 row)"),
        ("semicolons join labels", "labels.csv: labels joined by `;` are read as several labels (1 row)"),
        ("lists of Python", "labels.csv: labels in a list are read as several labels (3 rows)"),
        ("an annotation tool", "columns that are not read: 'id'"),
        ("an index, and empty columns", "labels.csv: 1 row without anything, skipped"),
        ("a column per defect", "labels.csv: 1 row without a 1, read as `good`"),
        ("JSON, other fields", "labels.jsonl: columns that are not read: 'score'"),
    ],
)
def test_what_was_understood_is_told(tmp_path: Path, name: str, told: str) -> None:
    file, text = TABLES[name]
    write_images(tmp_path).joinpath(file).write_text(text)
    assert told in remarks(load_dataset(tmp_path))
    assert bool(told) == bool(remarks(load_dataset(tmp_path)))


@pytest.mark.parametrize("lines", ["img/a.png,good\n\n", "\nimg/a.png,good\n", "\r\nimg/a.png,good\r\n\r\n"])
def test_empty_lines_are_nothing_to_tell(tmp_path: Path, lines: str) -> None:
    (write_images(tmp_path) / "labels.csv").write_text(f"filename,labels\n{lines}", newline="")
    dataset = load_dataset(tmp_path)
    assert labels_of(dataset) == {"img/a.png": ("good",)}
    assert remarks(dataset) == ""


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_file_that_is_listed_with_either_slash_counts_once(tmp_path: Path, is_zip: bool) -> None:
    path = write_images(tmp_path / "set", "img/1.jpg")
    (path / "labels.csv").write_text("filename,labels\nimg/1.jpg,good\nimg\\1.jpg,good\n")
    dataset = load_dataset(zip_of(path, ["img/1.jpg", "labels.csv"]) if is_zip else path)
    assert labels_of(dataset) == {"img/1.jpg": ("good",)}
    assert "rows that repeat an earlier one, and count once: 1" in remarks(dataset)
    (path / "labels.csv").write_text("filename,labels\nimg/1.jpg,good\nimg\\1.jpg,no cap\n")
    with pytest.raises(BadDataset, match=r"line 3: file 'img/1\.jpg' is listed twice"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("img/a.png,good\n", r"begins with 'img/a\.png,good', .*correct the first line, or add it"),
        ("filename,label,class\nimg/a.png,good,x\n", "labels may be in 'label' or 'class'. Call the one"),
        ("filename,labels,labels\nimg/a.png,good,x\n", "two columns called 'labels'"),
        ("filename,labels\nimg/a.png,a|b\nimg/b.png,a;c\n", r"line 3: 'a;c' has `;`, and in line 2 it has `\|`"),
        ('filename,labels\nimg/a.png,"a,b;c"\n', "line 2: 'a,b;c' has `,`, and it has `;` too"),
        ("filename,labels\nimg/a.png,[no cap]\n", r"line 2: '\[no cap\]' is not a list of labels in quotes"),
        ("filename,labels\nimg/a.png,\"['a' 'b']\"\n", "is not a list of labels in quotes"),
        ("filename,labels\nimg/a.png,\"[__import__('os').getcwd()]\"\n", "is not a list of labels in quotes"),
        ("filename,labels\nimg/a.png,\"['a;b']\"\n", "'a;b' is one item of a list, but seems to be several labels"),
        ("filename,labels\nimg/a.png,[]\n", "line 2: no label: write `good`"),
        ("filename,good,weight\nimg/a.png,1,3\n", "line 2: the column 'weight' has '3', but the columns of classes"),
        ("filename,labels,split\nimg/a.png,good,monday\n", "line 2: 'monday' is no split: write train, valid or test"),
        ("filename,labels\nimg/a.png,no cap,bent\n", "line 2: should be `filename,labels`; quote names with commas"),
        ("filename,labels\nimg/a.png," + "x" * 30_000 + "\n", "line 2: 30,000 characters in the labels"),
    ],
)
def test_what_can_not_be_understood_is_refused_with_the_mend(tmp_path: Path, table: str, message: str) -> None:
    (write_images(tmp_path) / "labels.csv").write_text(table)
    with pytest.raises(BadDataset, match=message):
        load_dataset(tmp_path)


def test_an_item_of_a_list_in_json_is_one_label(tmp_path: Path) -> None:
    row = {"filename": "img/a.png", "labels": ["no cap;bent"]}
    (write_images(tmp_path) / "labels.jsonl").write_text(json.dumps(row))
    with pytest.raises(BadDataset, match="line 1: 'no cap;bent' is one item of a list"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (("labels.csv", "Labels.csv"), r"has both Labels\.csv and labels\.csv: remove one"),
        (("labels.csv", "_classes.csv"), r"has both _classes\.csv and labels\.csv: remove one"),
        (("img/labels.csv", "more/x.png"), r"table of labels in the folder 'img', .*put one table beside the folders"),
    ],
)
def test_tables_in_wrong_places_are_refused(tmp_path: Path, tables: tuple[str, ...], message: str) -> None:
    write_images(tmp_path)
    for name in tables:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("filename,labels\nimg/a.png,good\n")
    with pytest.raises(BadDataset, match=message):
        load_dataset(tmp_path)


def test_a_table_with_another_name_is_told(tmp_path: Path) -> None:
    write_images(tmp_path, "good/a.png", "bent/b.png").joinpath("annotations.csv").write_text("x\n")
    assert "tables that are not read: 'annotations.csv'. If one holds the labels, call it labels.csv" in remarks(
        load_dataset(tmp_path)
    )
    write_images(tmp_path / "flat", "a.png").joinpath("train.csv").write_text("image,label\na.png,good\n")
    with pytest.raises(BadDataset, match=r"no labeled images: .*tables that are not read: 'train\.csv'"):
        load_dataset(tmp_path / "flat")


def test_a_class_that_a_column_names_and_no_row_has_is_known(tmp_path: Path) -> None:
    (write_images(tmp_path) / "_classes.csv").write_text("filename,good,bent\nimg/a.png,1,0\n")
    dataset = load_dataset(tmp_path)
    assert (dataset.classes, dataset.unlabelled) == (("bent", "good"), ("img/b.png", "img/c.png"))


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000])
def test_brackets_within_brackets_are_refused_with_the_line(tmp_path: Path, line: str) -> None:
    (tmp_path / JSONL_FILE).write_text(f'{{"filename": "a.png", "labels": "good"}}\n{line}\n')
    rows = LabelTable(open_files(tmp_path), JSONL_FILE).rows()
    assert next(rows) == (f"{tmp_path}/labels.jsonl, line 1", LabelRow("a.png", ["good"]))
    with pytest.raises(BadDataset, match=r"labels\.jsonl, line 2 can't be read as JSON"):
        next(rows)


@pytest.mark.parametrize("cell", ["[" * 19_999 + "]", "['" + "\\\\" * 9_000 + "]", "('" + "a" * 19_000 + ")"])
def test_a_hostile_list_in_a_cell_is_refused_at_once(tmp_path: Path, cell: str) -> None:
    (write_images(tmp_path) / "labels.csv").write_text(f'filename,labels\nimg/a.png,"{cell}"\n')
    with pytest.raises(BadDataset, match=r"line 2: .*is not a list of labels in quotes"):
        load_dataset(tmp_path)


def test_only_ends_of_lines_end_a_line(tmp_path: Path) -> None:
    lines = (f'{{"filename": "{name}.png", "labels": "good"}}' for name in ("a\u2028b", "c", "d"))
    (tmp_path / JSONL_FILE).write_bytes("\r\n".join(lines).encode())
    rows = LabelTable(open_files(tmp_path), JSONL_FILE).rows()
    found = [(location.rpartition(" ")[2], row.filename) for location, row in rows]
    assert found == [("1", "a\u2028b.png"), ("2", "c.png"), ("3", "d.png")]
