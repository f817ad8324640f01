"""Names of a classifier's outputs: as many as outputs, distinct, with notes about the changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model_store.publishing.class_labels import IMAGENET, labels_for, read_labels
from model_store.runtime.progress import ProgressSteps
from shared.errors import BadSetting
from tests.irregular_files import make_sparse_file


def fitted(names: list[str], outputs: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(labels_for(names, outputs=outputs, location="labels.txt"))  # type: ignore[return-value]


def test_names_are_unchanged_if_there_are_as_many_as_outputs() -> None:
    assert fitted(["a", "b"], 2) == (("a", "b"), ())


def test_imagenets_background_is_added_or_left_out() -> None:
    thousand = [f"class {number}" for number in range(1000)]
    names, notes = fitted(thousand, 1001)
    assert names == ("background", *thousand)
    assert "`background` was put in front" in notes[0]
    names, notes = fitted(["background", *thousand], 1000)
    assert names == tuple(thousand)
    assert "`background` was left out" in notes[0]


@pytest.mark.parametrize(
    ("names", "outputs"),
    [(["a", "b"], 3), (["a"] * 1001, 1000), (["a"] * 999, 1001), (["a"] * 1000, 1002)],
)
def test_a_wrong_number_of_names_is_refused(names: list[str], outputs: int) -> None:
    with pytest.raises(BadSetting, match=f"has {len(names):,} lines, but the classifier has {outputs:,} outputs"):
        fitted(names, outputs)


def test_imagenets_names_ship_in_the_order_of_the_outputs() -> None:
    names = read_labels(IMAGENET, steps=ProgressSteps())
    known = {0: "tench", 134: "crane bird", 281: "tabby", 440: "beer bottle", 504: "coffee mug", 517: "crane"}
    known |= {652: "military uniform", 657: "missile", 737: "pop bottle", 898: "water bottle", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known
    assert len({name.casefold() for name in names}) == 1000  # so a lane can be given to each of them
    assert fitted(list(names), 1000) == (names, ())
    assert fitted(list(names), 1001)[0] == ("background", *names)


def test_a_file_of_the_users_may_have_the_name_of_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(IMAGENET).write_text("a\nb\n")
    assert len(read_labels(IMAGENET, steps=ProgressSteps())) == 1000
    assert read_labels(f"./{IMAGENET}", steps=ProgressSteps()) == ("a", "b")


def test_repeated_names_become_distinct_and_that_is_reported() -> None:
    names, notes = fitted(["crane", "maillot", "crane", "maillot", "crane", "tench"], 6)
    assert names == ("crane", "maillot", "crane (2)", "maillot (2)", "crane (3)", "tench")
    assert notes == ("labels.txt repeats names; the later ones became `crane (2)`, `maillot (2)`, `crane (3)`.",)
    # One of the names already looks like a numbered one.
    assert fitted(["crane", "crane", "crane (2)"], 3)[0] == ("crane", "crane (3)", "crane (2)")


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
def test_labels_that_are_no_regular_file_or_too_large_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.txt")
    with pytest.raises(BadSetting, match=r"--labels .*labels\.txt can't be read: not a regular file"):
        read_labels(str(tmp_path / "labels.txt"), steps=ProgressSteps())
    with pytest.raises(BadSetting, match="can't be read: it has more than 10,000,000 bytes"):
        read_labels(str(make_sparse_file(tmp_path / "sparse.txt")), steps=ProgressSteps())


def test_lines_are_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(b"\xef\xbb\xbftench, Tinca tinca\r\n caf\xc3\xa9 \r\n\r\n")
    assert read_labels(str(file), steps=ProgressSteps()) == ("tench, Tinca tinca", "café")
    for content, names in (
        (b"a\n\nb\n", "line 2: '' can't be a name"),
        (b"a\n\x07b\n", "line 2"),
        (b"x" * 201, "line 1"),
        (b"", "line 1"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ):
        file.write_bytes(content)
        with pytest.raises(BadSetting, match=names):
            read_labels(str(file), steps=ProgressSteps())
    with pytest.raises(BadSetting, match=r"absent\.txt can't be read: No such file"):
        read_labels(str(tmp_path / "absent.txt"), steps=ProgressSteps())
