"""`sortline bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.terminal import JsonFlag

BENCHMARKS = ("queue", "line", "swaps")
# What is run when none is named: `swaps` takes minutes.
USUAL = ("queue", "line")


def add_to(app: typer.Typer) -> None:
    """Add `bench`."""
    app.command("bench")(bench)


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"which: {', '.join(BENCHMARKS)}; {' and '.join(USUAL)} when none is named"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="interleaved rounds; figures are medians over them")] = 3,
    jobs: Annotated[int, typer.Option(min=100, help="images per round of `line`; ten times that of `queue`")] = 1000,
    sizes: Annotated[str, typer.Option(help="frame sizes of `line`")] = "224x224,640x480,1920x1080",
    swaps: Annotated[int, typer.Option(min=1, help="promotions and rollbacks of `swaps`")] = 50,
    rate: Annotated[float, typer.Option(min=1, help="images a second of `swaps`")] = 40.0,
    model: Annotated[str | None, typer.Option(help="model of `line`, `swaps`: NAME or NAME@VERSION")] = None,
    engine: Annotated[str | None, typer.Option(help="engine of `line`, `swaps`")] = None,
    max_batch: Annotated[int | None, typer.Option(help="most images in one batch")] = None,
    out: Annotated[Path, typer.Option(help="folder of the JSON file")] = Path("bench-out"),
    redis_url: Annotated[
        str | None, typer.Option(help="an idle server that may be EMPTIED; an embedded one by default")
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Measure, on this machine, what the queue costs; prints ratios and writes a JSON file.

    `queue`: jobs/s with an engine that answers at once and 30 KB images, against RQ's SimpleWorker.
    `line`: images/s through Redis against the same decoder and engine in one process without a queue.
    `swaps`: capture-to-result times while versions are promoted and rolled back, beside times without.

    Example: sortline bench queue line --rounds 3
    """
    from worker.bench.report import run_all

    chosen = names or list(USUAL)
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        raise typer.BadParameter(f"no benchmark {unknown[0]!r}: choose of {', '.join(BENCHMARKS)}.")
    run_all(
        chosen,
        rounds=rounds,
        jobs=jobs,
        sizes=sizes.split(","),
        swaps=swaps,
        rate_hz=rate,
        flags={"model": model, "engine": engine, "max_batch": max_batch, "redis_url": redis_url},
        out=out,
        json_output=json_output,
    )
