"""The output: a table, the broken promises, the seed and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from torture.run import Report


def print_reports(reports: Sequence[Report], *, seed: int) -> None:
    """Print the reports for a reader."""
    console = Console()
    table = Table("campaign", "figure", "value")
    for report in reports:
        for number, (what, figure) in enumerate(_rows(report)):
            table.add_row(report.campaign if number == 0 else "", what, _text(figure))
        table.add_section()
    console.print(table)
    for report in reports:
        for breach in report.breaches:
            console.print(f"BROKEN in {report.campaign}, {_times(breach.cases)}: {breach.promise}", style="red")
            for example in breach.examples:
                console.print(f"    {example}", markup=False, highlight=False)
    console.print(f"seed {seed}; {verdict(reports)}", highlight=False)


def verdict(reports: Sequence[Report]) -> str:
    """Whether every promise was kept, in one sentence."""
    broken = [report.campaign for report in reports if report.breaches]
    if broken:
        return f"promises were broken in {', '.join(broken)}."
    accepted = sum(report.accepted for report in reports)
    return f"every promise was kept, for {accepted:,} acknowledged images."


def as_dict(reports: Sequence[Report], *, seed: int) -> dict[str, Any]:
    """The reports for a program."""
    return {
        "seed": seed,
        "passed": not any(report.breaches for report in reports),
        "campaigns": [
            {
                "campaign": report.campaign,
                "seconds": round(report.seconds, 1),
                "accepted": report.accepted,
                "refused": report.refused,
                "results": report.results,
                "lost_by_server": report.lost_by_server,
                "attempts": report.attempts,
                "outcomes": report.outcomes,
                "figures": report.figures,
                "breaches": [breach._asdict() for breach in report.breaches],
            }
            for report in reports
        ],
    }


def _rows(report: Report) -> list[tuple[str, Any]]:
    return [
        *report.figures.items(),
        ("images acknowledged", report.accepted),
        ("images refused", report.refused),
        ("images with a result", report.results),
        ("images that the server lost", report.lost_by_server),
        ("results by outcome", report.outcomes),
        ("results by attempt", report.attempts),
        ("duration, s", round(report.seconds)),
        ("promises broken", len(report.breaches)),
    ]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _text(figure: Any) -> str:
    if isinstance(figure, dict):
        return ", ".join(f"{name}: {_text(value)}" for name, value in figure.items())
    return f"{figure:,}" if isinstance(figure, int) else str(figure)
