"""The tables of `sortline bench`: one for each kind of benchmark, on standard output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from bench.measuring.record import Record
from bench.output.cells import milliseconds, spread_cells, words
from bench.output.deadline_tables import DEADLINE_TABLES
from shared.tables import plain_console, print_table


def kind_of(record: Record) -> str:
    """The kind of benchmark, e.g. `line` for `line 640x480`."""
    return str(record["benchmark"]).split()[0]


def print_tables(machine: dict[str, Any], records: Sequence[Record]) -> None:
    """Print a line about the machine, and the tables of the records."""
    console = plain_console()
    console.print(machine_line(machine))
    rates = [record for record in records if kind_of(record) in ("queue", "line")]
    if rates:
        _rates(console, rates)
    for record in records:
        if kind_of(record) in _TABLES:
            _TABLES[kind_of(record)](console, record)
        for what, reason in record.get("left_out", {}).items():
            console.print(f"{record['benchmark']}: {what} is left out: {reason}")


def machine_line(machine: dict[str, Any]) -> str:
    """The machine that the figures were measured on, in one line."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, load before {machine['load_before']}; "
        f"{machine['system']}, Python {machine['python']}, {machine['server']}"
    )


def ratios(record: Record) -> dict[str, float]:
    """Sortline's rate divided by each contender's, by the contender's name."""
    return {name.removeprefix("ratio_to_"): value for name, value in record.items() if name.startswith("ratio_to_")}


def _rates(console: Console, records: Sequence[Record]) -> None:
    rows = []
    for record in records:
        against = ratios(record)
        for key, value in record.items():
            if isinstance(value, dict) and "median" in value:
                contender = key.removesuffix("_jobs_per_s").removesuffix("_images_per_s")
                ratio = against.get(contender)
                shown = "" if ratio is None else f"{ratio} x"
                rows.append([record["benchmark"], words(contender), *spread_cells(value), shown])
    headings = ("benchmark", "contender", "median /s", "min-max", "Sortline / contender")
    print_table(console, headings, rows, title="throughput", text=(0, 1))
    for record in records:
        for name, value in record.items():
            if name.startswith("ratio_") and not name.startswith("ratio_to_"):
                console.print(f"{record['benchmark']}: {words(name)}: {value}")


def _engine(console: Console, record: Record) -> None:
    sizes = list(next(iter(record["images_per_s"].values())))
    rows = [
        [
            name,
            *(
                f"{figures['median']:,.0f} ({record['ratio_to_best'][name][size]:.2f})"
                for size, figures in by_size.items()
            ),
        ]
        for name, by_size in record["images_per_s"].items()
    ]
    title = f"engine: {record['model']} at {record['input_size_px']} px, images/s (share of the best)"
    print_table(console, ("engine", *(f"batch {size}" for size in sizes)), rows, title=title)


def _scaling(console: Console, record: Record) -> None:
    """Two tables: the rates, and what limits them. One table would be too wide."""
    simulated = record["simulated"]
    title = f"scaling; simulated engine: {simulated['batch_ms']:g} ms a batch + {simulated['image_ms']:g} ms an image"
    points = {
        (kind, str(point["workers"]), str(point["servers"])): point
        for kind in ("real", "simulated")
        for point in record[kind]["points"]
    }
    rates = [
        [*crew, *spread_cells(point["jobs_per_s"]), f"{point['ratio_to_one_worker']} x"]
        for crew, point in points.items()
    ]
    limits = [
        [
            *crew,
            f"{point['server_us_per_job']:.0f}",
            f"{point['worker_us_per_job']:.0f}",
            f"{point['used_share']['server']:.0%}",
            point["limited_by"],
        ]
        for crew, point in points.items()
    ]
    crew_headings = ("engine", "workers", "servers")
    print_table(console, (*crew_headings, "jobs/s", "min-max", "to one worker"), rates, title=title)
    headings = (*crew_headings, "server µs/job", "worker µs/job", "use of server's core", "limited by")
    print_table(console, headings, limits, title="what limits the rates")


def _idle(console: Console, record: Record) -> None:
    rows = [
        [
            str(group["workers"]),
            *(f"{group['pickup_ms'][name]:.2f}" for name in ("p50", "p95", "p99")),
            f"{group['capture_to_result_ms']['p50']:.2f}",
            f"{group['server_core_share_of_workers']:.2%}",
            f"{group['server']['commands_per_s']:,.0f}",
        ]
        for group in record["crews"]
    ]
    headings = (
        "idle workers",
        "pick-up p50 ms",
        "p95 ms",
        "p99 ms",
        "to result p50 ms",
        "share of server's core",
        "commands/s",
    )
    print_table(console, headings, rows, title=f"idle: {record['crews'][0]['pickup_ms']['images']} single images")


def _footprint(console: Console, record: Record) -> None:
    memory = record["resident_mb"]
    first = next(iter(record["resident_mb_after"]))
    rows = [
        ["process start to ready, s", *spread_cells(record["ready_s"], form=".2f")],
        ["process start to first result, s", *spread_cells(record["first_result_s"], form=".2f")],
        [f"resident after {int(first):,} images, MB", f"{memory['first']:.0f}", ""],
        [f"resident after {record['images']:,} images, MB", f"{memory['last']:.0f}", f"most {memory['most']:.0f}"],
    ]
    title = f"footprint: {record['size']}, {record['images_per_s']:g} images/s"
    print_table(console, ("", "median", "min-max"), rows, title=title)


def _swaps(console: Console, record: Record) -> None:
    rows = [
        [name, f"{times['images']:,}", *(milliseconds(times[key]) for key in ("p50", "p95", "p99", "max"))]
        for name, times in (("with swaps", record["with_swaps_ms"]), ("without", record["without_swaps_ms"]))
    ]
    title = f"{record['swaps']} swaps at {record['rate_hz']:g} images/s"
    print_table(console, ("capture to result", "images", "p50 ms", "p95 ms", "p99 ms", "max ms"), rows, title=title)
    console.print(
        f"{record['images']:,} images: {record['failed']} failed, {record['lost']} lost, {record['doubled']} doubled; "
        f"the first result of a new version came {record['reached_s']['median']} s after the swap "
        f"(at most {record['reached_s']['max']} s)"
    )


_TABLES: dict[str, Callable[[Console, Record], None]] = {
    "engine": _engine,
    "scaling": _scaling,
    "idle": _idle,
    "footprint": _footprint,
    "swaps": _swaps,
    **DEADLINE_TABLES,
}
