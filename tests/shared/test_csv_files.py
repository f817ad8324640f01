"""CSV that no spreadsheet takes for formulas, and that we read back as it was."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.csv_files import CsvWriter, unmarked

FORMULAS = [
    "=cmd|' !A0.jpg",
    '=HYPERLINK("http://x")',
    "+1",
    "-2.jpg",
    "@SUM(A1)",
    " =1",
    "'=1",
    "''@x",
    "\uff1d1+1",  # a full-width equals sign
    '"=1"',
]
AFTER_SEMICOLONS = [
    "a;=1+1.jpg",
    "a;+1",
    "a; @SUM(A1)",
    "a;-1,b",
    "a,b;'=1",
    "a;''=1",
    'a;"=1"',
    'a,";=1',
    ";=1;;=2;b;@3",
    "a;\uff1d1",
    "a\t=1;\t=1",
]
TEXTS = ["a;b=c", "a;b;1", "a;'b'", ";", "a=b.jpg", "a,b.jpg", '"q".jpg', "'quoted'", "it's", "", "1.5", "grün.jpg"]


def written(*values: object) -> list[str]:
    file = io.StringIO(newline="")
    writer = CsvWriter(file, ("a", "b"))
    for value in values:
        writer.write({"a": value, "other": "left out"})
    header, *rows = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert header == ["a", "b"]
    assert all(row[1] == "" for row in rows)
    return [row[0] for row in rows]


def test_a_cell_that_begins_like_a_formula_is_marked_as_text() -> None:
    assert written(*FORMULAS) == [f"'{text}" for text in FORMULAS]


def test_other_texts_and_numbers_stay_as_they_are() -> None:
    assert written(*TEXTS) == TEXTS
    assert written(-1.5, None, 7, True) == ["-1.5", "", "7", "True"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("text", [*FORMULAS, *AFTER_SEMICOLONS])
def test_no_cell_is_a_formula_whatever_separates_cells(text: str, separator: str) -> None:
    file = io.StringIO(newline="")
    writer = CsvWriter(file, ("a", "b", "c"))
    writer.write({"a": text, "b": text, "c": 1})
    writer.write({"a": "x", "b": f"x{text}", "c": text})
    for row in csv.reader(io.StringIO(file.getvalue(), newline=""), delimiter=separator):
        assert [cell for cell in row if cell.strip(' "').startswith(("=", "+", "-", "@", "\uff1d"))] == []


@pytest.mark.parametrize("text", [*FORMULAS, *AFTER_SEMICOLONS[:-1], *TEXTS])
def test_what_was_written_is_read_back(text: str) -> None:
    assert unmarked(*written(text)) == text


@given(st.text(alphabet="a;'\"= -1,"))
def test_any_text_is_read_back(text: str) -> None:
    assert unmarked(*written(text)) == text


def test_a_cell_is_one_line_and_fits_a_spreadsheet() -> None:
    assert written("a\r\n\x1b[2J\u202e") == [r"a\r\n\x1b[2J\u202e"]
    assert written("\t=1", "\r=1") == [r"\t=1", r"\r=1"]  # which begins with a backslash, so it is no formula
    for text in ("x" * 5_000_000, ";=" * 2_500_000):
        (cell,) = written(text)
        assert len(cell) < 32_767
        assert "5,000,000 characters in all" in cell
    (cell,) = written(";=" * 16_000)
    assert len(cell) < 32_767
