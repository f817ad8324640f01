"""The output: a table, the broken promises, the seed and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.tables import plain_console, print_facts
from torture.run import Report


def print_reports(reports: Sequence[Report], *, seed: int) -> None:
    """Print the reports for a reader."""
    console = plain_console()
    for report in reports:
        print_facts(console, [(what, _text(figure)) for what, figure in _rows(report)], title=report.campaign)
    for report in reports:
        for breach in report.breaches:
            console.print(f"BROKEN in {report.campaign}, {_times(breach.cases)}: {breach.promise}", style="red")
            for example in breach.examples:
                console.print(f"    {example}")
    console.print(f"seed {seed}; {verdict(reports)}")


def verdict(reports: Sequence[Report]) -> str:
    """Whether every promise was kept, in one sentence."""
    broken = [report.campaign for report in reports if report.breaches]
    if broken:
        return f"promises were broken in {', '.join(broken)}."
    tried = []
    if any(report.sends_images for report in reports):
        tried.append(f"{sum(report.accepted for report in reports):,} acknowledged images")
    if any(not report.sends_images for report in reports):
        tried.append(f"{sum(report.inputs for report in reports):,} inputs")
    return f"every promise was kept, for {' and '.join(tried)}."


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
    images = [
        ("images acknowledged", report.accepted),
        ("images refused", report.refused),
        ("images with a result", report.results),
        ("images that the server lost", report.lost_by_server),
        ("results by outcome", report.outcomes),
        ("results by attempt", report.attempts),
    ]
    return [
        *report.figures.items(),
        *(images if report.sends_images else ()),
        ("duration, s", round(report.seconds)),
        ("promises broken", len(report.breaches)),
    ]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _text(figure: Any) -> str:
    if isinstance(figure, dict):
        return ", ".join(f"{name}: {_text(value)}" for name, value in figure.items())
    return f"{figure:,}" if isinstance(figure, int) else str(figure)
