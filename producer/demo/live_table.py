"""The demo's live table. In: the tally and the queue's depth. Out: what rich shows, or a line of text."""

from __future__ import annotations

from rich.table import Table

from producer.demo.statistics import Tally


def table(tally: Tally, *, depth: int, now: float, seconds_left: float) -> Table:
    """The state as a table."""
    p50, p99 = tally.percentiles_ms([50, 99])
    title = f"Sortline  {tally.model}"
    board = Table(title=title, title_justify="left", show_header=False, min_width=64)
    board.add_column(style="bold")
    board.add_column()
    board.add_row("results", f"{tally.count:,}   {tally.rate_now(now):.1f}/s   {max(0.0, seconds_left):.0f} s left")
    board.add_row("capture to result", f"p50 {p50:.1f} ms   p99 {p99:.1f} ms")
    board.add_row("waiting in the queue", f"{depth:,}")
    board.add_row("lines", _counts(tally.by_line))
    board.add_row("outcomes", _counts(tally.outcomes))
    board.add_row("properties seen", _counts(tally.labels))
    board.add_row("lanes", _counts(tally.lanes))
    if tally.classified:
        board.add_row("all labels right", f"{tally.exact / tally.classified:.0%} of {tally.classified:,}")
    return board


def line(tally: Tally, *, depth: int, now: float) -> str:
    """The state as one line, for logs and pipes."""
    p50, p99 = tally.percentiles_ms([50, 99])
    return f"{tally.count} results, {tally.rate_now(now):.1f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, {depth} waiting"


def _counts(counts: dict[str, int]) -> str:
    return "   ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "-"
