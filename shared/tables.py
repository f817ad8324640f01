"""Tables for people, as wide as the terminal at most, or 80 columns in a pipe or a file. COLUMNS overrides both."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.messages import for_drawing
from shared.printable import one_line, printable_lines

# Blanks that rich puts between two columns.
_GAP = 2


class _PlainConsole(Console):
    """Prints text as it is: brackets in a name are no markup, and numbers have no colors.

    Control characters are escaped, because the text may quote others. Lines stay apart, as the caller may print
    several.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable_lines(text), **options)


def plain_console(*, stderr: bool = False) -> Console:
    """A console for text that may quote others: see `_PlainConsole`."""
    return _PlainConsole(stderr=stderr, markup=False, highlight=False, emoji=False)


def drawing_console(stream: TextIO | None = None) -> Console:
    """The same for what moves, such as bars and spinners: on standard error, or on the stream that is given."""
    file = for_drawing(sys.stderr if stream is None else stream)
    return _PlainConsole(file=file, markup=False, highlight=False, emoji=False)


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    text: Collection[int] = (0,),
) -> None:
    """Print a table with headings. A value is cut only above 5,000 characters.

    Args:
        console: where to.
        headings: one for each column.
        rows: the cells, one for each column.
        title: printed above the table.
        text: the numbers of the columns of text, from 0. If the table is too wide, text is wrapped. The other columns
            hold figures, which stay whole: only their headings are wrapped.
    """
    rows = _printable(rows)
    columns = list(zip(headings, *rows, strict=True))
    is_narrow = sum(max(map(cell_len, column)) + _GAP for column in columns) - _GAP > console.width
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, (heading, *cells) in enumerate(columns):
        is_text = number in text
        width = max(map(cell_len, (*heading.split(), *cells))) if is_narrow and not is_text else None
        table.add_column(Text(heading), overflow="fold", justify="left" if is_text else "right", width=width)
    _print(console, table, rows, title=title)


def print_facts(console: Console, facts: Iterable[Sequence[str]], *, title: str) -> None:
    """Print a title and, below it, names with their values."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold", style="dim")
    table.add_column(overflow="fold")
    _print(console, table, _printable(facts), title=title)


def _printable(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[one_line(cell) for cell in row] for row in rows]


def _print(console: Console, table: Table, rows: Iterable[Sequence[str]], *, title: str) -> None:
    for row in rows:
        table.add_row(*map(Text, row))
    if title:
        console.print(Text(one_line(title)), style="bold")
    console.print(table)
