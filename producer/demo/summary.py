"""Prints the summary of a demo."""

from __future__ import annotations

from producer.demo.session import DemoSummary
from shared.tables import plain_console, print_facts


def show(summary: DemoSummary) -> None:
    """Print the summary and where to look next."""
    console = plain_console()
    one_each = "every image has exactly one result"
    faults = f"{summary.missing} without a result, {summary.doubled} with several"
    facts = [
        ("images submitted", f"{summary.submitted:,}"),
        ("results", f"{summary.results:,}: {one_each if summary.complete else faults}"),
        ("throughput", f"{summary.images_per_s} images/s"),
        ("capture to result", f"p50 {summary.p50_ms} ms, p99 {summary.p99_ms} ms"),
        ("deadline", f"{summary.deadline_ms} ms after capture"),
        ("outcomes", ", ".join(f"{name} {count:,}" for name, count in sorted(summary.outcomes.items()))),
        ("all labels right", f"{summary.exact_match:.0%} of {summary.classified:,} classified"),
        ("model", summary.model),
    ]
    print_facts(console, facts, title="What happened")
    name = summary.model.partition("@")[0]
    for text in (
        "The frames are rendered. README.md explains how to train on your photographs.",
        f"contact sheet   {summary.contact_sheet}",
        f"logs            {summary.logs}/",
        "next            source .venv/bin/activate",
        f"the model       sortline models show {name}",
        f"your own files  sortline classify PHOTO.jpg --model {name}",
        "in production   README.md: server, worker, cameras; deploy/: Compose, Kubernetes",
    ):
        console.print(text, soft_wrap=True)
