"""Output that several commands of the model store share: metrics, unused files, progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from shared.messages import note

T = TypeVar("T")
_SHOWN_UNUSED = 10

_SUMMARY = (("accuracy", "macro_f1", "map", "exact_match", "ece"), ("uncertain", "sure_accuracy", "sure_exact_match"))


def print_metrics(metrics: dict[str, Any], *, title: str) -> None:
    """Print the metrics of `evaluate`: a line per class, then the metrics over all images."""
    from model_store.reports.model_summary import MEASURED_COLUMNS, METRIC_TITLES, format_score, measured_rows
    from shared.tables import plain_console, print_table

    console = plain_console()
    rows = measured_rows(metrics["per_class"])
    print_table(console, MEASURED_COLUMNS, rows, title=f"{title}: {metrics['images']:,} images")
    for names in _SUMMARY:
        shown = [f"{METRIC_TITLES[name]} {format_score(metrics[name])}" for name in names if name in metrics]
        console.print(", ".join(shown))
    if metrics["known_share"] < 1:
        console.print(
            f"{metrics['known_share']:.1%} of the labels are known: a folder's name says nothing about other labels"
        )


def print_unused(unreadable: list[dict[str, str]], unlabelled: list[str]) -> None:
    """Print the first files that were left out, with the reason, on standard error; all texts are `printable`."""
    texts = [f"{item['file']}: {item['reason']}" for item in unreadable]
    texts += [f"{name}: an image without a label" for name in unlabelled]
    for text in texts[:_SHOWN_UNUSED]:
        note(f"not used: {text}")
    if len(texts) > _SHOWN_UNUSED:
        note(f"not used: {len(texts) - _SHOWN_UNUSED:,} more files; --json names them all")


def with_progress(items: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """The same items, with a progress bar on standard error if that is a terminal."""
    from rich.progress import Progress

    from shared.tables import drawing_console

    console = drawing_console()
    # By default rich would send everything printed to standard output to its own console, standard error.
    with Progress(console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total=total, description=what)
