"""Writes CSV that a spreadsheet shows as it is, and takes the marks off again when such a file is read.

A cell of text is `printable`: one line, without control characters. If it begins like a formula (`=1+1`, `+1`, `-1`,
`@SUM(A1)`), an apostrophe is put before it, which spreadsheets take as "this is text": a file that somebody has named
`=HYPERLINK(...)` must not run when the results are opened. A text that begins with apostrophes before such a character
gets one more, so that `unmarked` always returns the text. Numbers are written as they are: -1.5 is a number.

Where `;` separates cells, as in many countries, a spreadsheet splits `a;=1+1.jpg` into two, and quotes around the text
don't prevent that, as they are in the middle of what it takes for a cell. So the apostrophe is also put after a `;`.

See https://owasp.org/www-community/attacks/CSV_Injection.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from typing import TextIO

from shared.printable import one_line

# Blanks before it do not help in every spreadsheet, and quotes are taken off. Some take the full-width forms (U+FF1D
# and others) too.
_FORMULA = r"""(?=[\s'"]*[=+\-@\uff1d\uff0b\uff0d\uff20])"""
_MARK = "'"
_UNMARKED_FORMULA = re.compile(rf"(^|;){_FORMULA}")
_MARKED_FORMULA = re.compile(rf"(^|;){_MARK}{_FORMULA}")
# A spreadsheet refuses a cell of more than 32,767 characters, or moves the rest of it to the next row.
_MAX_CELL_CHARACTERS = 32_767
# What is left of a longer text. Every other character of it may get an apostrophe.
_CUT_CHARACTERS = 21_000


class CsvWriter:
    """Writes rows under a header, which is written at once."""

    def __init__(self, file: TextIO, columns: Iterable[str], *, line_end: str = "\r\n") -> None:
        self._columns = tuple(columns)
        self._writer = csv.writer(file, lineterminator=line_end)
        self._writer.writerow(self._columns)

    def write(self, row: Mapping[str, object]) -> None:
        """Write a row: its cells by the names of the columns. A cell that is None or not there is empty."""
        self._writer.writerow([_cell(row.get(column)) for column in self._columns])


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    cell = _marked(one_line(value, max_characters=_MAX_CELL_CHARACTERS))
    return cell if len(cell) <= _MAX_CELL_CHARACTERS else _marked(one_line(value, max_characters=_CUT_CHARACTERS))


def _marked(text: str) -> str:
    return _UNMARKED_FORMULA.sub(rf"\1{_MARK}", text)


def unmarked(cell: str) -> str:
    """A cell of such a file as it was before the apostrophes were put into it."""
    return _MARKED_FORMULA.sub(r"\1", cell)
