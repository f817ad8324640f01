"""What several commands of the model store print: tables, figures, progress."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

_SUMMARY = (("accuracy", "macro_f1", "map", "exact_match", "ece"), ("uncertain", "sure_accuracy", "sure_exact_match"))


def plain_console() -> Console:
    """A console that takes names as they are; in a pipe or a file nothing is cut to a screen's width."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if not sys.stdout.isatty():
        console.width = 200
    return console


def figures_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """A table whose first column names what the others give figures of."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def print_figures(figures: dict[str, Any], *, title: str) -> None:
    """What `evaluate` found: a line per class, then the figures over all images."""
    from model_store.reports.model_summary import MEASURED_COLUMNS, TITLES, figure, measured_rows

    console = plain_console()
    rows = measured_rows(figures["per_class"])
    console.print(figures_table(f"{title}: {figures['images']:,} images", MEASURED_COLUMNS, rows))
    for names in _SUMMARY:
        shown = [f"{TITLES[name]} {figure(figures[name])}" for name in names if name in figures]
        console.print(", ".join(shown))
    if figures["known_share"] < 1:
        console.print(f"{figures['known_share']:.1%} of the truth is known: one label an image leaves the others open")


def print_unused(unreadable: list[dict[str, str]], unlabelled: list[str]) -> None:
    """Names of files that were left out, with the reason, on standard error."""
    for item in unreadable:
        print(f"not used: {item['file']}: {item['reason']}", file=sys.stderr)
    for name in unlabelled:
        print(f"not used: {name}: an image without a label", file=sys.stderr)


def with_progress(items: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """The same items, with a bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    # By itself rich sends what is printed to standard output meanwhile to its own console: standard error.
    with Progress(console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total=total, description=what)
