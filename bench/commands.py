"""`sortline bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.cli import JsonFlag

BENCHMARKS = ("engine", "line", "queue", "latency", "scaling", "idle", "footprint", "swaps")
# Run when none is named. The others take minutes each, and answer questions that few people have.
USUAL = ("engine", "line", "queue", "latency")


def add_to(app: typer.Typer) -> None:
    """Add `bench`."""
    app.command("bench")(bench)


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"which: {', '.join(BENCHMARKS)}; when none is named {', '.join(USUAL)}")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="interleaved rounds; figures are medians over them")] = 3,
    jobs: Annotated[
        int, typer.Option(min=100, help="images per round of `line`, `latency`, `scaling`; ten times that of `queue`")
    ] = 1000,
    sizes: Annotated[str, typer.Option(help="frame sizes of `line`")] = "224x224,640x480,1920x1080",
    peers: Annotated[
        bool, typer.Option("--peers", help="`queue`, `line`: also measure other systems, where they are installed")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="`latency`: seconds at each load")] = 10.0,
    deadline_ms: Annotated[
        float, typer.Option(min=1, help="`latency`: ms after capture by which the result must be there")
    ] = 150.0,
    single_jobs: Annotated[int, typer.Option(min=1, help="`idle`: images that come one by one")] = 200,
    idle_workers: Annotated[int, typer.Option(min=1, help="`idle`: workers that wait")] = 100,
    images: Annotated[int, typer.Option(min=100, help="`footprint`: images until memory is read again")] = 50_000,
    swaps: Annotated[int, typer.Option(min=1, help="`swaps`: promotions and rollbacks")] = 50,
    rate: Annotated[float, typer.Option(min=1, help="`swaps`: images a second")] = 40.0,
    model: Annotated[
        str | None, typer.Option(help="NAME or NAME@VERSION, where a real model is measured (not queue, idle)")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="its engine (`engine` measures all)")] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="most images in one batch; 32 of `queue` where nothing says how many")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the JSON file and the plot")] = Path("bench-out"),
    redis_url: Annotated[
        str | None, typer.Option(help="an idle server that may be EMPTIED; an embedded one by default")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure, on this machine, what Sortline does and what its queue costs.

    Prints tables with ratios; writes a JSON file and a plot. What is compared takes turns in one run.

    `engine`: images/s of each engine by batch size, nothing else: the ceiling.

    `line`: images/s through Redis against the same decoder and engine in one process without a queue.

    `queue`: jobs/s with an engine that answers at once and 30 KB images, against RQ's SimpleWorker.

    `latency`: capture-to-result times at 25, 50, 80 % of what a worker can do; results in time at 100, 150, 300 %.

    `scaling`: jobs/s with 1 and 2 workers, with 1 to 8 of a simulated engine, and with a second server.

    `idle`: how soon an idle worker picks a job up, and what idle workers cost the server.

    `footprint`: seconds from process start to ready, and memory held after many images.

    `swaps`: capture-to-result times while versions are promoted and rolled back, beside times without.

    Example: sortline bench line latency --rounds 3
    """
    from bench.run import Options, run_all

    chosen = names or list(USUAL)
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        raise typer.BadParameter(f"no benchmark {unknown[0]!r}: choose of {', '.join(BENCHMARKS)}.")
    options = Options(
        rounds=rounds,
        jobs=jobs,
        sizes=sizes.split(","),
        peers=peers,
        seconds=seconds,
        deadline_ms=deadline_ms,
        single_jobs=single_jobs,
        idle_workers=idle_workers,
        images=images,
        swaps=swaps,
        rate_hz=rate,
        model=model,
        engine=engine,
        max_batch=max_batch,
        redis_url=redis_url,
    )
    run_all(chosen, options, out=out, as_json=as_json)
