"""`sortline bench`, and `sortline bench render-pairs`, which makes datasets to measure models with.

The file has one long function, because typer takes a command's flags and their help from the parameters of a function,
and its help from the docstring: each flag and each benchmark is listed here once, and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bench.engines import KINDS
from shared.cli import ARGUMENTS_ARE_PUBLIC, JsonFlag, print_json

BENCHMARKS = (
    "engine",
    "line",
    "queue",
    "latency",
    "scaling",
    "idle",
    "footprint",
    "swaps",
    "recovery",
    "steady",
    "memory",
    "policies",
    "shed",
)
# These run if no benchmark is named. The others take minutes each, and answer questions that few people have.
USUAL = ("engine", "line", "queue", "latency")

RENDER_PAIRS = "render-pairs"
# Frames of each pair, if --learn and --judge are not given.
_LEARN_FRAMES = 340
_JUDGE_FRAMES = 420

# The heading of the options that apply to some benchmarks only.
_SINGLE_PANEL = "Options of single benchmarks"


class _Bench(TyperCommand):
    """`bench`, whose first argument may also be the name of a command of its own.

    A group of commands would not do: `bench line queue` would be taken for a command `line`, and a group that falls
    back on one of its commands has to rewrite the arguments too, and then shows that command's name in every usage
    line. `make_context` is where click lets a command choose what parses its arguments.
    """

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if args[:1] == [RENDER_PAIRS]:
            return _render_command().make_context(f"{info_name} {RENDER_PAIRS}", args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


def add_to(app: typer.Typer) -> None:
    """Add `bench`."""
    app.command("bench", cls=_Bench)(bench)


def _render_command() -> Any:
    app = typer.Typer(add_completion=False)
    app.command(RENDER_PAIRS)(render_pairs)
    return typer.main.get_command(app)


def render_pairs(
    out: Annotated[Path, typer.Argument(help="a new or empty folder")],
    pairs: Annotated[str, typer.Option(help="which pairs, separated by commas")] = "belt,light,camera",
    learn: Annotated[
        int | None, typer.Option(min=1, help=f"frames to learn from, in each pair (default: {_LEARN_FRAMES})")
    ] = None,
    judge: Annotated[
        int | None, typer.Option(min=1, help=f"frames to judge by, in each pair (default: {_JUDGE_FRAMES})")
    ] = None,
    mixed: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="instead of pairs, one dataset of N frames of all their belts and lamps"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same frames")] = 17,
    as_json: JsonFlag = False,
) -> None:
    """Render pairs of labeled bottle datasets that show other belts, lights, bottles and cameras than each other.

    A model that was trained on OUT/PAIR/learn and is evaluated on OUT/PAIR/judge shows what it knows about bottles, and
    not about one belt. The labels are those of the demo's frames; each defect has a probability of 0.3.

    `belt`: other belts, with litter and rails. `light`: colored, low, harsh or dim lamps, glare, noise. `camera`: other
    heights and angles, motion blur, exposure, and more standing bottles. The bottles' shapes differ in all pairs.

    `--mixed N` renders other frames of all of them into OUT, to tune a network on. The default backbone was tuned on
    such frames, so it has seen the belts of every `judge`.

    A frame takes 0.15 to 0.2 s of a core.

    Example: sortline bench render-pairs shifted --pairs belt,light
    """
    from bench.rendering import datasets
    from shared.progress import show_status

    if mixed is not None:
        _check_no_counts_of_pairs(learn, judge)
    chosen = datasets.chosen_pairs(pairs)
    datasets.check_out(out)
    with show_status("frames") as on_progress:
        if mixed is not None:
            rendered = datasets.render_mixed(out, chosen, count=mixed, seed=seed, on_progress=on_progress)
        else:
            rendered = datasets.render_pairs(
                out,
                chosen,
                learn=learn or _LEARN_FRAMES,
                judge=judge or _JUDGE_FRAMES,
                seed=seed,
                on_progress=on_progress,
            )
    if as_json:
        print_json(rendered)
    else:
        datasets.print_rendered(rendered)


def _check_no_counts_of_pairs(learn: int | None, judge: int | None) -> None:
    from shared.errors import BadSetting

    for flag, count in (("--learn", learn), ("--judge", judge)):
        if count is not None:
            raise BadSetting(
                f"{flag} {count} is for pairs, and --mixed renders one dataset instead: --mixed N is the number of its "
                f"frames. Leave out {flag}, or --mixed."
            )


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"any of {', '.join(BENCHMARKS)}; by default {', '.join(USUAL)}")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="interleaved rounds; figures are medians over the rounds")] = 3,
    jobs: Annotated[
        int,
        typer.Option(
            min=100,
            help="images per round of `line` and `scaling`, and to measure the capacity in `latency`, `recovery` and "
            "`steady`; ten times as many for `queue`",
        ),
    ] = 1000,
    sizes: Annotated[
        str, typer.Option(help="`line`: frame sizes, separated by commas", rich_help_panel=_SINGLE_PANEL)
    ] = "224x224,640x480,1920x1080",
    peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="`queue`, `line`: also measure other systems, where they are installed",
            rich_help_panel=_SINGLE_PANEL,
        ),
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="how long: `latency` at each load (default: 10), `recovery` the overload (60), `steady` (600), "
            "`memory` in each case (10), `policies` in virtual time (30)",
            rich_help_panel=_SINGLE_PANEL,
        ),
    ] = None,
    deadline_ms: Annotated[
        float,
        typer.Option(
            min=1,
            help="`latency`, `recovery`, `steady`, `policies`: deadline of each result, ms after capture",
            rich_help_panel=_SINGLE_PANEL,
        ),
    ] = 150.0,
    kinds: Annotated[
        str,
        typer.Option(
            help="`latency`, `recovery`: engines, separated by commas: the model's own, and one of 200 images/s that "
            "leaves the processor free",
            rich_help_panel=_SINGLE_PANEL,
        ),
    ] = "real,simulated",
    single_jobs: Annotated[
        int, typer.Option(min=1, help="`idle`: how many images come, one by one", rich_help_panel=_SINGLE_PANEL)
    ] = 200,
    idle_workers: Annotated[
        int, typer.Option(min=1, help="`idle`: how many workers wait", rich_help_panel=_SINGLE_PANEL)
    ] = 100,
    images: Annotated[
        int,
        typer.Option(min=100, help="`footprint`: images sorted while memory is read", rich_help_panel=_SINGLE_PANEL),
    ] = 50_000,
    swaps: Annotated[
        int, typer.Option(min=1, help="`swaps`: how many promotions and rollbacks", rich_help_panel=_SINGLE_PANEL)
    ] = 50,
    shed_images: Annotated[
        int,
        typer.Option(min=100, help="`shed`: images that expire, and that are refused", rich_help_panel=_SINGLE_PANEL),
    ] = 20_000,
    rate: Annotated[float, typer.Option(min=1, help="`swaps`: images a second", rich_help_panel=_SINGLE_PANEL)] = 40.0,
    model: Annotated[
        str | None,
        typer.Option(help="NAME or NAME@VERSION, where a real model runs (default: as for `classify`)"),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="the model's engine (`engine` measures all engines)")] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="most images in one batch; for `queue`, 32 unless this or the setting is given")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the JSON file and the plot")] = Path("bench-out"),
    redis_url: Annotated[
        str | None,
        typer.Option(help=f"an idle server that may be EMPTIED; an embedded one by default; {ARGUMENTS_ARE_PUBLIC}"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure how fast Sortline is on this machine, and what its queue costs.

    Prints tables with ratios; writes a JSON file and a plot. Systems that are compared take turns in one run.

    `engine`: images/s of each engine by batch size, without decoding or a queue: the ceiling for all others.

    `line`: images/s through Redis against the same decoder and engine in one process without a queue.

    `queue`: jobs/s with an engine that answers at once and 30 KB images, against RQ's SimpleWorker.

    `latency`: capture-to-result times at 25, 50, 80 % of a worker's capacity; results in time at 100, 150, 300 and
    1000 %. With the real engine and with a simulated one that leaves the processor free.

    `scaling`: jobs/s with 1 and 2 workers, with 1 to 8 workers on a simulated engine, and with a second server.

    `idle`: how soon an idle worker picks a job up, and what idle workers cost the server.

    `footprint`: seconds from process start to ready, and memory held after many images.

    `swaps`: capture-to-result times while versions are promoted and rolled back, compared with times without changes.

    `recovery`: how soon after an overload of 300 % the times are what they were before.

    `steady`: images that miss their deadline in ten minutes at 80 %, beside stalls of the machine itself.

    `memory`: the server's memory while producers push as fast as they can, with images of 30 KB and 5 MB.

    `policies`: share in time beside fixed batches and first in, first out, in virtual time.

    `shed`: processor time of an image that expires, and of one that is refused, by a full queue or by its deadline.

    `sortline bench render-pairs --help`: renders datasets to measure models with, and measures nothing itself.

    Example: sortline bench line latency --rounds 3
    """
    from bench.run import Options, run_all

    chosen = names or list(USUAL)
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        raise typer.BadParameter(f"no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}.")
    if unknown := [kind for kind in kinds.split(",") if kind not in KINDS]:
        raise typer.BadParameter(f"--kinds: no engine {unknown[0]!r}: choose from {', '.join(KINDS)}.")
    options = Options(
        rounds=rounds,
        jobs=jobs,
        sizes=sizes.split(","),
        peers=peers,
        seconds=seconds,
        deadline_ms=deadline_ms,
        kinds=kinds.split(","),
        single_jobs=single_jobs,
        idle_workers=idle_workers,
        images=images,
        shed_images=shed_images,
        swaps=swaps,
        rate_hz=rate,
        model=model,
        engine=engine,
        max_batch=max_batch,
        redis_url=redis_url,
    )
    run_all(chosen, options, out=out, as_json=as_json)
