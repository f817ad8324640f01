"""Several workers for a benchmark, each a process of its own: all working at the same time, or all idle.

They are complete workers (`WorkerService`): pipeline, leases, registration, probes.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any

from bench.measuring.record import OnProgress
from shared import keys
from shared.errors import Transient
from shared.schemas import SortResult
from shared.settings import Settings
from worker.models.loading import LoadedModel

Loader = Callable[[Settings], LoadedModel]

# How long the workers may take to start. One loads its model within seconds; a hundred on two cores take longer.
PATIENCE_S = 180.0

_start_barrier: Barrier


def drain_queues(settings: Sequence[Settings], load: Loader) -> float:
    """Run one worker for each of the settings. They load, begin together, and end when their queues are empty.

    Returns:
        seconds of processor time that the workers used since their common start.

    Raises:
        Whatever the first of them raised.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(settings))
    with ProcessPoolExecutor(
        len(settings), mp_context=context, initializer=_set_barrier, initargs=(barrier,)
    ) as pool:  # as many processes as tasks: each waits for the others
        futures = [pool.submit(_work, each, load) for each in settings]
    _raise_first([future.exception() for future in futures])
    return sum(future.result() for future in futures)


def _raise_first(errors: Sequence[BaseException | None]) -> None:
    """Raise the error that caused the others: a BrokenBarrierError only says that another worker failed."""
    found = [error for error in errors if error is not None]
    for error in [error for error in found if not isinstance(error, BrokenBarrierError)] or found:
        raise error


def _set_barrier(barrier: Barrier) -> None:
    global _start_barrier
    _start_barrier = barrier


def meet_group(timeout_s: float) -> None:
    """Wait until every worker of this process's group has called this as often.

    Raises:
        BrokenBarrierError: not within `timeout_s`, or a worker of the group failed.
    """
    _start_barrier.wait(timeout_s)


def _work(settings: Settings, load: Loader) -> float:
    from worker.service import WorkerService

    _log_errors_only()
    before_s = 0.0

    def load_and_wait(settings: Settings) -> LoadedModel:
        nonlocal before_s
        try:
            loaded = load(settings)
        except BaseException:
            _start_barrier.abort()
            raise
        meet_group(PATIENCE_S)
        before_s = time.process_time()
        return loaded

    code = WorkerService(settings, burst=True, load=load_and_wait).run()
    if code:
        raise Transient(f"a worker ended with {code}: see its log above.")
    return time.process_time() - before_s


def steady_rate(found: Sequence[SortResult], *, workers: int) -> float:
    """Images/s while all `workers` were working: from when the last one began to when the first one ended.

    Raises:
        Transient: some left no result, or they never worked at the same time.
    """
    finished: dict[str, list[float]] = {}
    for result in found:
        finished.setdefault(result.worker, []).append(result.finished_at)
    if len(finished) != workers:
        raise Transient(f"{len(finished)} of {workers} workers had work: give the benchmark more --jobs.")
    began = max(min(times) for times in finished.values())
    ended = min(max(times) for times in finished.values())
    if ended <= began:
        raise Transient(f"{workers} workers never worked at the same time: give the benchmark more --jobs.")
    return sum(1 for result in found if began < result.finished_at <= ended) / (ended - began)


@contextlib.contextmanager
def idle_workers(
    settings: Settings, load: Loader, *, count: int, client: Any, on_progress: OnProgress
) -> Iterator[None]:
    """`count` workers with nothing to do, for as long as the block lasts; all are registered when it begins.

    They are forked off one process that has imported the worker and share its memory, so that a hundred fit. They
    also end when the caller is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["worker.service", load.__module__])
    workers: list[BaseProcess] = [context.Process(target=_idle, args=(settings, load)) for _ in range(count)]
    try:
        for worker in workers:
            worker.start()
        _wait_registered(workers, client, on_progress)
        yield
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()  # SIGTERM: they drain
        for worker in workers:
            if worker.pid is not None:
                worker.join()


def _wait_registered(workers: Sequence[BaseProcess], client: Any, on_progress: OnProgress) -> None:
    until = time.monotonic() + PATIENCE_S
    while (there := client.scard(keys.RQ_WORKERS)) < len(workers):
        ended = [worker.exitcode for worker in workers if worker.exitcode is not None]
        if ended or time.monotonic() > until:
            raise Transient(f"{there} of {len(workers)} workers registered; exit codes {ended}: see their logs above.")
        on_progress(f"idle: {there} of {len(workers)} workers are registered")
        time.sleep(0.2)


def _idle(settings: Settings, load: Loader) -> None:
    from worker.service import WorkerService

    _log_errors_only()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    raise SystemExit(WorkerService(settings, load=load).run())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _log_errors_only() -> None:
    """Log errors only. Otherwise each of a hundred workers would warn that the server does not persist its jobs."""
    logging.getLogger("sortline").setLevel(logging.ERROR)
