"""Several workers for a benchmark, each a process of its own: at work together, or idle.

They are whole workers (`WorkerService`): pipeline, leases, registration, probes.
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

from bench.figures import Say
from shared import keys
from shared.errors import Transient
from shared.schemas import SortResult
from shared.settings import Settings
from worker.models.loading import LoadedModel

Loader = Callable[[Settings], LoadedModel]

# A model is loaded within seconds; a hundred processes on two cores take longer.
PATIENCE_S = 180.0

_together: Barrier


def work_off(settings: Sequence[Settings], load: Loader) -> float:
    """One worker for each of the settings: load, begin together, end when their queues are empty.

    Returns:
        seconds of processor time that the workers took from their common start on.

    Raises:
        Whatever the first of them raised.
    """
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(len(settings))
    with ProcessPoolExecutor(
        len(settings), mp_context=context, initializer=_share, initargs=(together,)
    ) as pool:  # as many processes as tasks: each waits for the others
        futures = [pool.submit(_work, each, load) for each in settings]
    _raise_first([future.exception() for future in futures])
    return sum(future.result() for future in futures)


def _raise_first(errors: Sequence[BaseException | None]) -> None:
    """The cause, not those that waited for it in vain."""
    found = [error for error in errors if error is not None]
    for error in [error for error in found if not isinstance(error, BrokenBarrierError)] or found:
        raise error


def _share(together: Barrier) -> None:
    global _together
    _together = together


def _work(settings: Settings, load: Loader) -> float:
    from worker.service import WorkerService

    _hush()
    before_s = 0.0

    def load_and_wait(settings: Settings) -> LoadedModel:
        nonlocal before_s
        try:
            loaded = load(settings)
        except BaseException:
            _together.abort()
            raise
        _together.wait(PATIENCE_S)
        before_s = time.process_time()
        return loaded

    code = WorkerService(settings, burst=True, load=load_and_wait).run()
    if code:
        raise Transient(f"a worker ended with {code}: see its log above.")
    return time.process_time() - before_s


def steady_rate(found: Sequence[SortResult], *, workers: int) -> float:
    """Images/s while all `workers` were at it: from the last one's first results to the first one's last.

    Raises:
        Transient: some left no result, or they never were at it together.
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
def idle_crew(settings: Settings, load: Loader, *, count: int, client: Any, say: Say) -> Iterator[None]:
    """So many workers with nothing to do, for as long as the block lasts; all are registered when it begins.

    Forked off one process that has imported the worker: they share its memory, so that a hundred fit. They end
    when the caller is killed, too.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["worker.service", load.__module__])
    crew: list[BaseProcess] = [context.Process(target=_idle, args=(settings, load)) for _ in range(count)]
    try:
        for worker in crew:
            worker.start()
        _wait_registered(crew, client, say)
        yield
    finally:
        for worker in crew:
            if worker.pid is not None:
                worker.terminate()  # SIGTERM: they drain
        for worker in crew:
            if worker.pid is not None:
                worker.join()


def _wait_registered(crew: Sequence[BaseProcess], client: Any, say: Say) -> None:
    until = time.monotonic() + PATIENCE_S
    while (there := client.scard(keys.RQ_WORKERS)) < len(crew):
        ended = [worker.exitcode for worker in crew if worker.exitcode is not None]
        if ended or time.monotonic() > until:
            raise Transient(f"{there} of {len(crew)} workers came; exit codes {ended}: see their logs above.")
        say(f"idle: {there} of {len(crew)} workers are there")
        time.sleep(0.2)


def _idle(settings: Settings, load: Loader) -> None:
    from worker.service import WorkerService

    _hush()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    raise SystemExit(WorkerService(settings, load=load).run())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _hush() -> None:
    """Errors only: that a benchmark's server keeps no log of its jobs is no news from each of a hundred workers."""
    logging.getLogger("sortline").setLevel(logging.ERROR)
