"""Formats the demo's live table. In: the statistics and the queue's depth. Out: a table for rich, or a line of text."""

from __future__ import annotations

from rich.table import Table

from producer.demo.statistics import ResultStatistics


def table(statistics: ResultStatistics, *, depth: int, now: float, seconds_left: float) -> Table:
    """The state as a table."""
    title = f"Sortline  {statistics.model}"
    shown = Table(title=title, title_justify="left", show_header=False, min_width=64)
    shown.add_column(style="bold")
    shown.add_column()
    shown.add_row(
        "results", f"{statistics.count:,}   {statistics.rate_now(now):.1f}/s   {max(0.0, seconds_left):.0f} s left"
    )
    shown.add_row("capture to result", _latency(statistics, between="   "))
    shown.add_row("waiting in the queue", f"{depth:,}")
    shown.add_row("lines", _counts(statistics.by_line))
    shown.add_row("outcomes", _counts(statistics.outcomes))
    shown.add_row("labels", _counts(statistics.labels))
    shown.add_row("lanes", _counts(statistics.lanes))
    if statistics.classified:
        shown.add_row(
            "all labels right", f"{statistics.exact / statistics.classified:.0%} of {statistics.classified:,}"
        )
    return shown


def line(statistics: ResultStatistics, *, depth: int, now: float) -> str:
    """The state as one line, for logs and pipes."""
    if not statistics.count:
        return f"no results yet, {depth} waiting"
    return (
        f"{statistics.count} results, {statistics.rate_now(now):.1f}/s, {_latency(statistics, between=', ')}, "
        f"{depth} waiting"
    )


def _latency(statistics: ResultStatistics, *, between: str) -> str:
    if not statistics.count:
        return "-"
    p50, p99 = statistics.percentiles_ms([50, 99])
    return f"p50 {p50:.1f} ms{between}p99 {p99:.1f} ms"


def _counts(counts: dict[str, int]) -> str:
    return "   ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "-"
