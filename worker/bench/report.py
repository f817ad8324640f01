"""Runs the chosen benchmarks, prints their table and writes the JSON file beside it."""

from __future__ import annotations

import functools
import json
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from model_store.engines import usable_cores
from shared.connection import check, connect
from shared.embedded import embedded_server
from shared.errors import BadSetting
from shared.settings import Settings, load_settings, masked
from shared.terminal import print_json
from worker.bench.benchmarks import Say, bench_line, bench_queue
from worker.bench.swaps import bench_swaps


class Benchmark(Protocol):
    """A benchmark with its options given: from settings of an emptied server to a record of figures."""

    def __call__(self, settings: Settings, *, say: Say) -> dict[str, Any]: ...


def run_all(
    names: Sequence[str],
    *,
    rounds: int,
    jobs: int,
    sizes: Sequence[str],
    swaps: int,
    rate_hz: float,
    flags: dict[str, Any],
    out: Path,
    json_output: bool,
) -> None:
    """Run, print, write. An embedded server is started unless a flag names another."""
    chosen = _chosen(names, rounds=rounds, jobs=jobs, sizes=sizes, swaps=swaps, rate_hz=rate_hz)
    machine = describe_machine()  # with the load before this one
    if flags["redis_url"] is not None:
        settings = load_settings(**flags)
        _refuse_used(settings)
        records = _run(settings, chosen)
    else:
        with embedded_server() as url:
            records = _run(load_settings(**flags | {"redis_url": url}), chosen)
    now = time.gmtime()
    document = {"machine": machine, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", now), "benchmarks": records}
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"bench-{time.strftime('%Y%m%d-%H%M%S', now)}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    if json_output:
        print_json(document)
    else:
        _print(machine, records)
        Console(stderr=True).print(f"written to {path}")


def _refuse_used(settings: Settings) -> None:
    client = connect(settings.redis_url)
    check(client, settings.redis_url)
    if count := client.dbsize():
        raise BadSetting(
            f"redis_url {masked(settings.redis_url)}: the database holds {count} keys, and a benchmark empties it. "
            "Name an empty one, e.g. …/15."
        )


def _chosen(
    names: Sequence[str], *, rounds: int, jobs: int, sizes: Sequence[str], swaps: int, rate_hz: float
) -> list[Benchmark]:
    chosen: list[Benchmark] = []
    if "queue" in names:
        chosen.append(functools.partial(bench_queue, rounds=rounds, jobs=jobs * 10))
    if "line" in names:
        chosen += [functools.partial(bench_line, rounds=rounds, jobs=jobs, size=size) for size in sizes]
    if "swaps" in names:
        chosen.append(functools.partial(bench_swaps, swaps=swaps, rate_hz=rate_hz))
    return chosen


def _run(settings: Settings, chosen: Sequence[Benchmark]) -> list[dict[str, Any]]:
    client: Any = connect(settings.redis_url)
    with Console(stderr=True).status("benchmarks") as status:

        def say(text: str) -> None:
            status.update(text)

        records = []
        for benchmark in chosen:
            client.flushdb()
            records.append(benchmark(settings, say=say))
        return records


def describe_machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": usable_cores(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: version(package) for package in ("rq", "redis", "ai-edge-litert", "pillow")},
    }


def _print(machine: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    rates = [record for record in records if record["benchmark"] != "swaps"]
    if rates:
        _print_rates(machine, rates)
    for record in records:
        if record["benchmark"] == "swaps":
            _print_swaps(machine, record)


def _print_swaps(machine: dict[str, Any], record: dict[str, Any]) -> None:
    table = Table(title=f"{record['swaps']} swaps at {record['rate_hz']:g} images/s; {_title(machine)}")
    for heading in ("capture to result", "images", "p50 ms", "p95 ms", "p99 ms", "max ms"):
        table.add_column(heading)
    for name, times in (("with swaps", record["with_swaps_ms"]), ("without", record["without_swaps_ms"])):
        figures = [f"{times[key]:.1f}" for key in ("p50", "p95", "p99", "max")]
        table.add_row(name, f"{times['images']:,}", *figures)
    console = Console()
    console.print(table)
    console.print(
        f"{record['images']:,} images: {record['failed']} failed, {record['lost']} lost, {record['doubled']} doubled; "
        f"a swap was served after {record['reached_s']['median']} s (at most {record['reached_s']['max']} s)"
    )


def _title(machine: dict[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}"


def _print_rates(machine: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    table = Table(title=_title(machine))
    for heading in ("benchmark", "contender", "median /s", "min-max", "Sortline against it"):
        table.add_column(heading)
    for record in records:
        for key, value in record.items():
            if not isinstance(value, dict):
                continue
            contender = key.removesuffix("_jobs_per_s").removesuffix("_images_per_s")
            ratio = record.get(f"ratio_to_{contender}")
            shown = "" if ratio is None else f"{ratio} x"
            table.add_row(
                record["benchmark"],
                contender.replace("_", " "),
                f"{value['median']:,.0f}",
                f"{value['min']:,.0f}-{value['max']:,.0f}",
                shown,
            )
    Console().print(table)
