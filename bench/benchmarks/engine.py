"""`bench engine`: images/s of each engine at each batch size, without decoding or a queue.

This is the ceiling for all other benchmarks. Each engine has its own process for the whole run, and the engines take
turns, so that no two of them run at the same time.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from bench.measuring.record import OnProgress, Record, spread
from model_store.engines.loading import open_engine, runnable_engines
from model_store.engines.protocol import Engine, EngineName
from model_store.registry.store import open_store
from shared.errors import SortlineError
from shared.images.arrays import Pixels
from shared.settings import Settings

BATCH_SIZES = (1, 4, 16, 64)
# In each round, each engine is measured at each batch size for at least this long and at least this many batches.
MEASURE_S = 1.0
MIN_BATCHES = 3

_engine: Engine


def bench_engine(settings: Settings, *, rounds: int, on_progress: OnProgress, measure_s: float = MEASURE_S) -> Record:
    """Measure images/s by engine and batch size. `left_out` names each engine that can't run the model, and why."""
    bundle = open_store(settings).open(settings.model)
    left_out: dict[str, str] = {}
    pools: dict[EngineName, ProcessPoolExecutor] = {}
    with ExitStack() as stack:
        for name in runnable_engines():
            on_progress(f"engine: loading {name}")
            pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))
            if problem := pool.submit(_open, settings, name).result():
                left_out[name] = problem
            else:
                pools[name] = pool
        measured: dict[tuple[EngineName, int], list[float]] = {key: [] for key in itertools.product(pools, BATCH_SIZES)}
        for number, (name, size) in itertools.product(range(1, rounds + 1), measured):
            on_progress(f"engine: round {number} of {rounds}, {name}, batches of {size}")
            measured[name, size].append(pools[name].submit(_rate, size, measure_s).result())
    return {
        "benchmark": "engine",
        "model": f"{bundle.manifest.name}@{bundle.manifest.version}",
        "input_size_px": bundle.manifest.input_size_px,
        "threads": settings.engine_threads,
        "rounds": rounds,
        **_figures(measured),
        "left_out": left_out,
    }


def _figures(measured: dict[tuple[EngineName, int], list[float]]) -> dict[str, Any]:
    rates = {key: spread(values) for key, values in measured.items()}
    (engine, size), best = max(rates.items(), key=lambda item: item[1]["median"])
    figures: dict[str, Any] = {"images_per_s": {}, "ratio_to_best": {}}
    for (name, batch), found in rates.items():
        figures["images_per_s"].setdefault(name, {})[str(batch)] = found
        figures["ratio_to_best"].setdefault(name, {})[str(batch)] = round(found["median"] / best["median"], 3)
    return figures | {"best": {"engine": engine, "batch": size, "images_per_s": best["median"]}}


def _open(settings: Settings, name: EngineName) -> str | None:
    """Load the engine into this process. Returns the reason if it can't be loaded, otherwise None."""
    global _engine
    bundle = open_store(settings).open(settings.model)
    try:
        _engine = open_engine(bundle, name, threads=settings.engine_threads, max_batch=max(BATCH_SIZES))
    except SortlineError as error:
        return str(error)
    _engine.warm_up(BATCH_SIZES)
    return None


def _rate(size: int, measure_s: float) -> float:
    """Images/s of this process's engine, which is warm."""
    side_px = _engine.input_size_px
    batch = np.random.default_rng(0).integers(0, 256, (size, side_px, side_px, 3), np.uint8)
    _engine.predict(batch)  # so that the change to this batch size is not measured
    started = time.perf_counter()
    with ThreadPoolExecutor(_engine.max_concurrency) as callers:  # as many as a worker has
        calls = [callers.submit(_predict_until, batch, started + measure_s) for _ in range(_engine.max_concurrency)]
    return sum(call.result() for call in calls) * size / (time.perf_counter() - started)


def _predict_until(batch: Pixels, until: float) -> int:
    for batches in itertools.count(1):
        _engine.predict(batch)
        if batches >= MIN_BATCHES and time.perf_counter() >= until:
            return batches
    raise AssertionError("unreachable")
