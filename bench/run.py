"""Runs the chosen benchmarks, prints their tables, and writes the JSON file and the plot."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.benchmarks.engine import bench_engine
from bench.benchmarks.footprint import bench_footprint
from bench.benchmarks.idle import bench_idle
from bench.benchmarks.latency import bench_latency
from bench.benchmarks.line import bench_line
from bench.benchmarks.memory import bench_memory
from bench.benchmarks.policies import bench_policies
from bench.benchmarks.queue import bench_queue
from bench.benchmarks.recovery import bench_recovery
from bench.benchmarks.scaling import bench_scaling
from bench.benchmarks.shed import bench_shed
from bench.benchmarks.steady import bench_steady
from bench.benchmarks.swaps import bench_swaps
from bench.engines import REAL
from bench.measuring.machine import describe_machine, server_version
from bench.measuring.record import OnProgress, Record
from bench.output.plot import draw
from bench.output.tables import print_tables
from model_store.registry.chosen_model import chosen_model
from model_store.registry.store import open_store
from shared.cli import print_json
from shared.errors import BadSetting, NotFound
from shared.masking import masked
from shared.messages import note
from shared.output_files import check_output_folder
from shared.progress import show_status
from shared.server.connection import check, connect
from shared.server.embedded import embedded_server
from shared.server.error_translation import server_errors
from shared.settings import Settings, load_settings

# The benchmarks that run a real model.
_WITH_MODEL = {"engine", "line", "scaling", "footprint", "swaps", "steady"}
# These run one if asked for the real engine.
_OF_KINDS = {"latency", "recovery"}
# Seconds of the benchmarks that take as long as they are told to.
_SECONDS = {"latency": 10.0, "recovery": 60.0, "steady": 600.0, "memory": 10.0, "policies": 30.0}


class Benchmark(Protocol):
    """A benchmark with its options bound. It measures on the emptied server of the settings, and returns a record."""

    def __call__(self, settings: Settings, *, on_progress: OnProgress) -> Record: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of `sortline bench`. An option that is None leaves its setting as it is."""

    rounds: int
    jobs: int
    sizes: Sequence[str]
    peers: bool
    seconds: float | None  # None: each benchmark's own
    deadline_ms: float
    kinds: Sequence[str]
    single_jobs: int
    idle_workers: int
    images: int
    shed_images: int
    swaps: int
    rate_hz: float
    model: str | None
    engine: str | None
    max_batch: int | None
    redis_url: str | None


def run_all(names: Sequence[str], options: Options, *, out: Path, as_json: bool) -> None:
    """Run the benchmarks, print the tables, write the files. Starts an embedded server unless `options` name one."""
    machine = describe_machine()  # before the benchmarks load it
    settings = _settings(names, options)
    if options.redis_url is not None:
        with server_errors(settings.redis_url):
            _refuse_used(settings)
            check_output_folder(out, flag="--out")  # made only when nothing else can be refused
            document = _run(settings, _chosen(names, options), machine)
    else:
        check_output_folder(out, flag="--out")
        with embedded_server() as url:
            document = _run(settings.model_copy(update={"redis_url": url}), _chosen(names, options), machine)
    path = _write(document, out)
    _plot(document, path.with_suffix(".png"))  # before the printing, which ends at once if its reader ends, e.g. `head`
    if as_json:
        print_json(document)
    else:
        print_tables(document["machine"], document["benchmarks"])
    note(f"written to {path}")


def _settings(names: Sequence[str], options: Options) -> Settings:
    """The settings for the benchmarks and the processes they start; if one runs a model, with that model's name."""
    settings = load_settings(
        model=options.model, engine=options.engine, max_batch=options.max_batch, redis_url=options.redis_url
    )
    with_model = _WITH_MODEL | _OF_KINDS if REAL in options.kinds else _WITH_MODEL
    if not with_model.intersection(names):
        return settings
    return settings.model_copy(update={"model": chosen_model(settings, open_store(settings))})


def _refuse_used(settings: Settings) -> None:
    client = connect(settings.redis_url)
    check(client, settings.redis_url)
    if count := client.dbsize():
        raise BadSetting(
            f"redis_url {masked(settings.redis_url)}: the database holds {count} keys, and a benchmark empties it. "
            "Name an empty one, e.g. …/15."
        )


def _chosen(names: Sequence[str], options: Options) -> list[Benchmark]:
    """The chosen benchmarks, always in this order: the ceiling comes first."""
    possible = _measuring_speed(options) | _measuring_deadlines(options)
    return [benchmark for name, benchmarks in possible.items() if name in names for benchmark in benchmarks]


def _measuring_speed(options: Options) -> dict[str, list[Benchmark]]:
    rounds, jobs = options.rounds, options.jobs
    return {
        "engine": [functools.partial(bench_engine, rounds=rounds)],
        "line": [
            functools.partial(bench_line, rounds=rounds, jobs=jobs, size=size, peers=options.peers)
            for size in options.sizes
        ],
        "queue": [functools.partial(bench_queue, rounds=rounds, jobs=jobs * 10, peers=options.peers)],
        "latency": [
            functools.partial(
                bench_latency,
                kind=kind,
                rounds=rounds,
                jobs=jobs,
                seconds=_seconds(options, "latency"),
                deadline_ms=options.deadline_ms,
            )
            for kind in options.kinds
        ],
        "scaling": [functools.partial(bench_scaling, rounds=rounds, jobs=jobs)],
        "idle": [functools.partial(bench_idle, jobs=options.single_jobs, workers=options.idle_workers)],
        "footprint": [functools.partial(bench_footprint, rounds=rounds, images=options.images)],
        "swaps": [functools.partial(bench_swaps, swaps=options.swaps, rate_hz=options.rate_hz)],
    }


def _measuring_deadlines(options: Options) -> dict[str, list[Benchmark]]:
    jobs, deadline_ms = options.jobs, options.deadline_ms
    return {
        "recovery": [
            functools.partial(
                bench_recovery,
                kind=kind,
                jobs=jobs,
                seconds=_seconds(options, "recovery"),
                deadline_ms=deadline_ms,
            )
            for kind in options.kinds
        ],
        "steady": [
            functools.partial(bench_steady, jobs=jobs, seconds=_seconds(options, "steady"), deadline_ms=deadline_ms)
        ],
        "memory": [functools.partial(bench_memory, seconds=_seconds(options, "memory"))],
        "policies": [functools.partial(bench_policies, seconds=_seconds(options, "policies"), deadline_ms=deadline_ms)],
        "shed": [functools.partial(bench_shed, rounds=options.rounds, images=options.shed_images)],
    }


def _seconds(options: Options, name: str) -> float:
    return _SECONDS[name] if options.seconds is None else options.seconds


def _run(settings: Settings, chosen: Sequence[Benchmark], machine: dict[str, Any]) -> dict[str, Any]:
    """The whole document. The description of the machine also names the server's version."""
    client: Any = connect(settings.redis_url)
    machine = machine | {"server": server_version(client)}
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with show_status("benchmarks") as on_progress:
        records = []
        for benchmark in chosen:
            client.flushdb()
            records.append(benchmark(settings, on_progress=on_progress))
        client.flushdb()
    return {"machine": machine, "at": at, "benchmarks": records}


def _write(document: dict[str, Any], out: Path) -> Path:
    path = out / f"bench-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def _plot(document: dict[str, Any], path: Path) -> None:
    """Draw the plot. Without matplotlib only the plot is missing: the figures are already written."""
    try:
        draw(document, path)
    except NotFound as error:
        note(str(error))
