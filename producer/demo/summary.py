"""Prints the summary of a demo."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from producer.demo.session import DemoSummary


def show(summary: DemoSummary) -> None:
    """Print the summary and where to look next."""
    console = Console()
    table = Table(title="What happened", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    one_each = "every image has exactly one result"
    faults = f"{summary.missing} without a result, {summary.doubled} with several"
    table.add_row("images submitted", f"{summary.submitted:,}")
    table.add_row("results", f"{summary.results:,}: {one_each if summary.complete else faults}")
    table.add_row("throughput", f"{summary.images_per_s} images/s")
    table.add_row("capture to result", f"p50 {summary.p50_ms} ms, p99 {summary.p99_ms} ms")
    table.add_row("deadline", f"{summary.deadline_ms} ms after capture")
    table.add_row("outcomes", ", ".join(f"{name} {count:,}" for name, count in sorted(summary.outcomes.items())))
    table.add_row("all labels right", f"{summary.exact_match:.0%} of {summary.classified:,} classified")
    table.add_row("model", summary.model)
    console.print(table)
    name = summary.model.partition("@")[0]
    for text in (
        "The frames are rendered, not photographs; README.md explains how to train on your own.",
        f"contact sheet   {summary.contact_sheet}",
        f"logs            {summary.logs}/",
        f"the model       sortline models show {name}       (after `source .venv/bin/activate`)",
        f"your own files  sortline classify PHOTO.jpg --model {name}",
        "in production   README.md: a server, `sortline worker`, `sortline camera`; deploy/ for Compose and Kubernetes",
    ):
        console.print(text, highlight=False, soft_wrap=True)
