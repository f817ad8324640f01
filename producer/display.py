"""Output of the producer's commands: progress on standard error if that is a terminal, results on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from producer.camera import CameraOptions, CameraSummary
from producer.upload import MISSING, Row, UploadProgress, outcomes
from shared.schemas import Outcome, SortResult

_ROWS_SHOWN = 20


def note(text: str) -> None:
    """Print one line to standard error."""
    print(text, file=sys.stderr)


def with_progress(steps: Iterable[object], *, total: int, title: str) -> None:
    """Go through the steps, with a progress bar."""
    with _progress() as progress:
        for _ in progress.track(steps, total=total, description=title):
            pass


@contextmanager
def camera_status(options: CameraOptions) -> Iterator[Callable[[CameraSummary], None]]:
    """Show a line of counts while the camera runs. Yields a function that updates the line."""
    with _progress() as progress:
        task = progress.add_task(f"{options.line}/{options.camera}", total=options.count)

        def show(summary: CameraSummary) -> None:
            text = f"{options.line}/{options.camera}  {summary.accepted_hz:g}/s"
            for count, word in _losses(summary):
                text += f"  {count:,} {word}" if count else ""
            progress.update(task, completed=summary.frames, description=escape(text))

        yield show


def _losses(summary: CameraSummary) -> list[tuple[int, str]]:
    """How many frames are not in the queue, by the reason."""
    return [
        (summary.refused_full, "dropped, queue full"),
        (summary.rejected, "rejected"),
        (summary.too_old, "too old"),
        (summary.missed, "missed"),
        (summary.unsent, "not sent"),
    ]


def show_camera(summary: CameraSummary) -> None:
    """Print the final summary as a table."""
    table = Table("camera", f"{summary.line}/{summary.camera}")
    table.add_row("frames", f"{summary.frames:,}")
    table.add_row("accepted", f"{summary.accepted:,}")
    for count, word in _losses(summary):
        table.add_row(word, f"{count:,}")
    table.add_row("seconds without the server", f"{summary.stalled_s:,.1f}")
    table.add_row("seconds", f"{summary.seconds:,.1f}")
    table.add_row("accepted per second", f"{summary.accepted_hz:,.1f}")
    Console().print(table)


@contextmanager
def upload_bar(files: int, *, wait: bool) -> Iterator[Callable[[UploadProgress], None]]:
    """Show a progress bar for files sent and, with `wait`, one for results. Yields a function that updates them."""
    with _progress() as progress:
        sent = progress.add_task("sent", total=files)
        answered = progress.add_task("results", total=files, visible=wait)
        noted = ""

        def show(state: UploadProgress) -> None:
            nonlocal noted
            if state.problem not in ("", noted):
                noted = state.problem
                progress.console.print(noted, "Waiting.", markup=False, highlight=False, soft_wrap=True)
            waiting = f" ({state.waiting}, waiting)" if state.waiting else ""
            progress.update(sent, completed=state.sent, description=f"sent{waiting}")
            progress.update(answered, completed=state.answered)

        yield show


def show_upload(rows: list[Row], out: Path | None) -> None:
    """Print how many files have each outcome, and the first files that went wrong."""
    console = Console()
    table = Table("outcome", "files")
    for outcome, count in outcomes(rows).items():
        table.add_row(outcome, f"{count:,}")
    table.add_row("all", f"{len(rows):,}")
    console.print(table)
    wrong = [row for row in rows if row.outcome in (Outcome.REJECTED, Outcome.FAILED, MISSING)]
    for row in wrong[:_ROWS_SHOWN]:
        console.print(f"{row.outcome}: {row.file}: {row.error}", markup=False, highlight=False, soft_wrap=True)
    if len(wrong) > _ROWS_SHOWN:
        console.print(f"and {len(wrong) - _ROWS_SHOWN:,} more like these")
    if out is not None:
        console.print(f"one row for each file: {out}", markup=False, highlight=False, soft_wrap=True)


def show_result(result: SortResult) -> None:
    """Print one result as a line of text."""
    at = datetime.fromtimestamp(result.finished_at, UTC).strftime("%H:%M:%S.%f")[:-3]
    labels = ", ".join(f"{label.label} {label.probability:.2f}" for label in result.labels) or result.error or ""
    margin = "" if result.deadline_margin_ms is None else f"{result.deadline_margin_ms:+.0f} ms"
    frame = "" if result.frame_id is None else str(result.frame_id)
    where = f"{at}Z  {result.line}/{result.camera}  {frame:>8}"
    print(f"{where}  {result.outcome:<8}  {result.lane:<12}  {margin:>8}  {labels}", flush=True)


def show_result_json(result: SortResult) -> None:
    """Print one result as a line of JSON."""
    print(result.model_dump_json(), flush=True)


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
