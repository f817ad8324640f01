"""Output of the producer's commands: progress on standard error if that is a terminal, results on standard output."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from producer.camera_options import CameraOptions
from producer.camera_summary import CameraSummary
from producer.result_table import MARGIN_EXPLAINED, CsvTable, ResultTable
from producer.upload import MISSING, Row, UploadProgress, outcomes, row_as_json
from shared.cli import print_json, print_json_line
from shared.messages import note, say
from shared.printable import one_line
from shared.progress import ProgressLines
from shared.schemas import Outcome, SortResult
from shared.tables import drawing_console, plain_console, print_facts, print_table

log = logging.getLogger(__name__)

_ROWS_SHOWN = 20
_QUEUE_FULL = "dropped, queue full"


def with_progress(steps: Iterable[object], *, total: int, title: str) -> None:
    """Go through the steps, with a progress bar; if this is no terminal, the title is logged."""
    with _progress() as progress:
        if progress.disable:
            log.info("%s", title)
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
            progress.update(task, completed=summary.frames, description=one_line(text))

        yield show


def _losses(summary: CameraSummary) -> list[tuple[int, str]]:
    """How many frames are not in the queue, by the reason."""
    return [
        (summary.refused_full, _QUEUE_FULL),
        (summary.rejected, "rejected"),
        (summary.too_old, "too old"),
        (summary.unsent, "not sent"),
        (summary.missed, "missed, not taken"),
    ]


def show_camera(summary: CameraSummary, *, as_json: bool) -> None:
    """Print the final summary, as a table or as JSON."""
    if as_json:
        print_json(asdict(summary))
        return
    facts = [
        ("frames taken", f"{summary.frames:,}"),
        ("accepted", f"{summary.accepted:,}"),
        *_loss_facts(summary),
        ("seconds without the server", f"{summary.stalled_s:,.1f}"),
        *([("seconds waited for the queue", f"{summary.blocked_s:,.1f}")] if summary.blocked_s else []),
        ("seconds", f"{summary.seconds:,.1f}"),
        ("accepted per second", f"{summary.accepted_hz:,.1f}"),
    ]
    print_facts(plain_console(), facts, title=f"camera {summary.line}/{summary.camera}")


def _loss_facts(summary: CameraSummary) -> Iterator[tuple[str, str]]:
    """The losses, and the reasons of those frames that the queue refused."""
    for count, word in _losses(summary):
        yield word, f"{count:,}"
        if word == _QUEUE_FULL:
            yield from ((f"  {reason}", f"{of_reason:,}") for reason, of_reason in summary.refused.items() if of_reason)


@contextmanager
def upload_bar(files: int, *, wait: bool) -> Iterator[Callable[[UploadProgress], None]]:
    """Show the files sent and, with `wait`, the results: in bars, or in lines of text if this is no terminal.

    Yields a function that updates them.
    """
    with _progress() as progress:
        sent = progress.add_task("sent", total=files)
        answered = progress.add_task("results", total=files, visible=wait)
        noted = {""}
        lines = ProgressLines(note)

        def say(text: str) -> None:
            if text not in noted:
                noted.add(text)
                progress.console.print(one_line(text), soft_wrap=True)

        def show(state: UploadProgress) -> None:
            say(state.unserved)
            say(state.problem and f"{state.problem} Waiting.")
            waiting = f" (waiting: {state.waiting})" if state.waiting else ""
            if progress.disable:
                results = f", {state.answered:,} results" if wait else ""
                lines.show(f"sent {state.sent:,} of {files:,} files{waiting}{results}")
            progress.update(sent, completed=state.sent, description=one_line(f"sent{waiting}"))
            progress.update(answered, completed=state.answered)

        try:
            yield show
        finally:
            lines.end()


def show_upload(rows: list[Row], *, as_json: bool) -> None:
    """Print how many files have each outcome, and the first files that went wrong; or, as JSON, all rows."""
    if as_json:
        print_json([row_as_json(row) for row in rows])
        return
    console = plain_console()
    counts = {**outcomes(rows), "all": len(rows)}
    print_table(console, ("outcome", "files"), [(outcome, f"{count:,}") for outcome, count in counts.items()])
    wrong = [row for row in rows if row.outcome in (Outcome.REJECTED, Outcome.FAILED, MISSING)]
    for row in wrong[:_ROWS_SHOWN]:
        say(f"{row.outcome}: {row.file}: {row.error}")
    if len(wrong) > _ROWS_SHOWN:
        say(f"and {len(wrong) - _ROWS_SHOWN:,} more like these")


def result_printer(known: Sequence[SortResult], *, as_json: bool, as_csv: bool) -> Callable[[SortResult], None]:
    """Return a function that prints a result to standard output at once: as JSON, as CSV, or as a row of a table.

    The table's columns are made wide enough for the results that are `known` already.
    """
    if as_json:
        return lambda result: print_json_line(result.model_dump(mode="json"))
    if as_csv:
        return CsvTable(sys.stdout).show
    table = ResultTable(width=shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    table.widen(known)
    has_header = False

    def show(result: SortResult) -> None:
        nonlocal has_header
        lines = list(table.lines(result))
        if not has_header:
            note(MARGIN_EXPLAINED)
            say(table.header())
            has_header = True
        for line in lines:
            say(line)
        sys.stdout.flush()

    return show


def _progress() -> Progress:
    console = drawing_console()
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
