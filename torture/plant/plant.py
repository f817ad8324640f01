"""The plant under torture: worker and producer processes, and the follower of their results."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from shared import keys
from shared.errors import Transient
from shared.server.connection import connect
from shared.server.roles import Role
from shared.settings import Settings, environment
from torture.history.checker import RQ_SUCCESSES, Breach, History, Loss, WorkerCount, breach_of, check
from torture.history.deaths import Death
from torture.history.follower import Follower
from torture.history.ledger import LedgerWriter, read_ledger
from torture.history.leftovers import read_leftovers, read_visible
from torture.plant.executions import EXECUTIONS_VARIABLE
from torture.plant.feeder import FeederOptions
from torture.plant.processes import FeederProcess, Process, WorkerProcess
from torture.plant.worker_program import MARKS_VARIABLE
from torture.server.server import TortureServer
from torture.server.users import denials, url_as
from torture.server.waiting import PATIENCE_S, wait_until

# How long a worker that is told to end may take to finish what it holds.
DRAIN_S = 30.0
# Exit code of a worker that was told to end twice, unless it had finished by then.
QUIT_CODE = 130
# How long the queues may take to become empty in the end: leases may have to expire, and the sweep to find lost jobs.
SETTLE_S = 300.0

ENDS_WHEN_TOLD = "workers and producers end when they are told to, not before, and in good order"
NEEDS_NO_MORE_RIGHTS = "workers and producers try nothing that their roles may not do"
GIVES_METRICS = "a worker answers when it is asked for its metrics"

T = TypeVar("T")
OnProgress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantOptions:
    """What a campaign is given."""

    settings: Settings
    server: TortureServer | None  # None if the user has named a server
    folder: Path  # the campaign's own; it exists
    engine: str
    seed: int
    on_progress: OnProgress


class Plant:
    """A context manager. All of its processes have ended when it is left.

    A campaign starts, stops and kills `workers` and `feeders`. Then `settle` waits for the last results and ends all
    processes, and `check_history` finds the promises that were broken.
    """

    def __init__(self, options: PlantOptions) -> None:
        self.options = options
        self.settings = options.settings
        self.server = options.server
        self.random = random.Random(options.seed)  # noqa: S311 - a seed makes the choices repeatable
        self.client: Any = connect(self.settings.redis_url)
        self.workers: list[WorkerProcess] = []
        self.feeders: list[FeederProcess] = []
        self.deaths: list[Death] = []
        self.losses: list[Loss] = []
        self.counts: list[WorkerCount] = []
        self.broken: dict[str, list[str]] = {}  # promises that the campaign itself saw broken, and the cases
        self.allowed_outcomes: dict[str, Collection[str]] = {}  # see History
        self.planted: set[str] = set()  # see History
        self.expected_keys: set[str] = set()  # keys that the campaign has written and that may stay
        self.miscounted_in_rq: set[str] = set()  # workers whose hash, with RQ's count, the campaign has overwritten
        self.marks = options.folder / "marks.txt"
        self.executions = options.folder / "executions.txt"  # see torture.plant.executions
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._ledgers: list[Path] = []
        self.follower = Follower(self.settings.redis_url, queues=self.settings.queue_names)

    def __enter__(self) -> Plant:
        self.marks.touch()
        self.follower.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self.feeders, *self.workers):
            process.kill()
        self.follower.end()
        self._stack.close()
        self.client.close()

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Enter a context that is left with the plant, after its workers have ended."""
        return self._stack.enter_context(context)

    # workers and producers ──────────────────────────────────────────────────────────────────────────

    def start_worker(self, settings: Settings | None = None, *, is_restarted: bool = False) -> WorkerProcess:
        """Start a worker. Returns before it is ready. If `is_restarted`, a parent process replaces it when it dies."""
        variables = self.environment_of(Role.WORKER, settings) | {
            "SORTLINE_METRICS_PORT": "0",
            "SORTLINE_LOG_FORMAT": "text",
            MARKS_VARIABLE: str(self.marks),
            EXECUTIONS_VARIABLE: str(self.executions.absolute()),
        }
        worker = WorkerProcess(
            next(self._numbers),
            engine=self.options.engine,
            folder=self.options.folder,
            variables=variables,
            is_restarted=is_restarted,
        )
        self.workers.append(worker)
        return worker

    def start_workers(self, count: int, settings: Settings | None = None, *, are_restarted: bool = False) -> None:
        """Start `count` workers, and wait until they are ready.

        Raises:
            BadSetting: one of them ended instead; says why.
        """
        workers = [self.start_worker(settings, is_restarted=are_restarted) for _ in range(count)]
        wait_until(lambda: all(_is_alive_and(worker, worker.name) for worker in workers), "the workers are ready")

    @property
    def ready(self) -> list[WorkerProcess]:
        """The workers that are ready to claim jobs."""
        return [worker for worker in self.workers if worker.name]

    def start_feeders(self, feeder_options: Sequence[FeederOptions], settings: Settings | None = None) -> None:
        """Start a producer for each of these, and wait until all of them send.

        Raises:
            BadSetting: one of them ended instead; says why.
        """
        feeders = [self.start_feeder(options, settings) for options in feeder_options]
        wait_until(lambda: all(_is_alive_and(feeder, feeder.is_sending) for feeder in feeders), "the producers send")

    def start_feeder(self, options: FeederOptions, settings: Settings | None = None) -> FeederProcess:
        """Start a producer; returns before it sends."""
        number = next(self._numbers)
        feeder = FeederProcess(
            f"camera-{number}",
            str(self.random.getrandbits(32)),
            options.to_json(),
            ledger=self._new_ledger(f"feeder-{number:05d}"),
            variables=self.environment_of(Role.PRODUCER, settings),
        )
        self.feeders.append(feeder)
        return feeder

    def environment_of(self, role: Role, settings: Settings | None) -> dict[str, str]:
        """The environment of a process with these settings. On the torture's own server it has the role's rights."""
        given = settings or self.settings
        if self.server is None:
            return environment(given)
        return environment(given.model_copy(update={"redis_url": url_as(role, given.redis_url)}))

    def open_ledger(self) -> LedgerWriter:
        """A ledger for the images that the campaign itself sends; closed with the plant."""
        ledger = LedgerWriter(self._new_ledger("campaign"))
        self._stack.callback(ledger.close)
        return ledger

    def _new_ledger(self, name: str) -> Path:
        ledger = self.options.folder / f"{name}.ledger"
        ledger.touch()
        self._ledgers.append(ledger)
        return ledger

    def kill_feeder(self, feeder: FeederProcess) -> None:
        """Send SIGKILL. What the producer was sending may have reached the server or not."""
        self._note_if_ended(feeder)
        feeder.kill()
        self.feeders.remove(feeder)

    def kill_worker(self, worker: WorkerProcess) -> Death:
        """Send SIGKILL, and record what the worker held.

        It is paused first, because other workers take its jobs back as soon as it is gone.
        """
        self._note_if_ended(worker)
        worker.signal(signal.SIGSTOP)
        held = self.held_by(worker.name) if worker.name else ()
        at = time.time()
        worker.kill()
        return self.record_death(worker, at=at, held=held)

    def record_death(self, worker: WorkerProcess, *, at: float, held: Sequence[str] = ()) -> Death:
        """Record a worker that ended without a drain at this time (UTC epoch seconds), and what it held."""
        worker.wait()  # it has ended; this closes its pipe
        self.workers.remove(worker)
        name = worker.name or ""
        if name:
            self.record_end(name)
        death = Death(name, at, tuple(held))
        self.deaths.append(death)
        return death

    def record_end(self, worker: str) -> None:
        """Record what RQ has counted for a worker that ended without a drain, by its name."""
        self._count_in_rq(worker, is_final=False)

    def drain_worker(
        self, worker: WorkerProcess, *, number: int = signal.SIGTERM, again_after_s: float | None = None
    ) -> int:
        """Tell a worker to end, and wait until it has. Notes a late end and a wrong exit code. Returns the exit code.

        `again_after_s`: send the signal a second time, this many seconds after the first.
        """
        right_codes = [0]
        if not self._note_if_ended(worker):
            worker.signal(number)
            if again_after_s is not None:
                right_codes.append(QUIT_CODE)
                time.sleep(again_after_s)
                worker.signal(number)
            self._await_end(worker, right_codes=right_codes, timeout_s=DRAIN_S)
        code = worker.wait()
        self.workers.remove(worker)
        if worker.name:
            is_final = code in right_codes and worker.name not in self.miscounted_in_rq
            self._count_in_rq(worker.name, is_final=is_final)
        return code

    def _note_if_ended(self, process: Process) -> bool:
        """Note a process that has ended although nobody told it to. Returns whether it has ended."""
        if process.exit_code is None:
            return False
        self.note(ENDS_WHEN_TOLD, f"{process.what} ended by itself: exit code {process.exit_code}; see {process.log}")
        return True

    def _await_end(self, process: Process, *, timeout_s: float, right_codes: Sequence[int] = (0,)) -> None:
        """Wait for the end of a process that was told to end. Note it if that comes too late, or with a wrong code."""
        try:
            code = process.wait(timeout_s)
        except Transient as error:  # it is killed by now
            self.note(ENDS_WHEN_TOLD, str(error))
        else:
            if code not in right_codes:
                self.note(ENDS_WHEN_TOLD, f"{process.what}, told to end: exit code {code}; see {process.log}")

    def held_by(self, worker: str) -> tuple[str, ...]:
        """The jobs that are leased to a worker, according to RQ."""
        job_ids = [
            composite.decode().rpartition(":")[0]
            for queue in self.settings.queue_names
            for composite in self.client.zrange(keys.rq_wip(queue), 0, -1)
        ]
        with self.client.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hget(keys.rq_job(job_id), "worker_name")
            owners = pipeline.execute()
        return tuple(job_id for job_id, owner in zip(job_ids, owners, strict=True) if owner == worker.encode())

    def _count_in_rq(self, worker: str, *, is_final: bool) -> None:
        """Record how many successes RQ has counted for a worker that has ended."""
        if self.losses:  # the server may have lost the count too, or results that were counted
            return
        succeeded = self.client.hget(keys.rq_worker(worker), RQ_SUCCESSES)
        self.counts.append(WorkerCount(worker, RQ_SUCCESSES, int(succeeded or 0), is_final))

    def lose_data(self, action: Callable[[], object]) -> None:
        """Have the server lose its data, and record which images may be lost with it."""
        since = time.time()
        job_ids = self._held_by_server()
        action()
        self.losses.append(Loss(job_ids, since=since, until=time.time()))

    def _held_by_server(self) -> frozenset[str]:
        """All jobs on the server, even those that have ended: the follower may not have read their results yet."""
        with self.client.pipeline(transaction=True) as pipeline:
            for queue in self.settings.queue_names:
                pipeline.lrange(keys.rq_queue(queue), 0, -1)
                pipeline.lrange(keys.suspects(queue), 0, -1)
                for registry in (keys.rq_wip(queue), keys.rq_finished(queue), keys.rq_failed(queue)):
                    pipeline.zrange(registry, 0, -1)
            answers = pipeline.execute()
        return frozenset(member.decode().partition(":")[0] for members in answers for member in members)

    def note(self, promise: str, example: str) -> None:
        """Record a case of a broken promise that only the campaign can see."""
        self.broken.setdefault(promise, []).append(example)

    # the end ────────────────────────────────────────────────────────────────────────────────────────

    def stop_feeders(self) -> None:
        """Tell the producers to end, and wait until they have."""
        wait_until(
            lambda: all(each.is_sending or each.exit_code is not None for each in self.feeders), "producers send"
        )
        told = [feeder for feeder in self.feeders if not self._note_if_ended(feeder)]
        for feeder in told:
            feeder.signal(signal.SIGTERM)
        for feeder in told:
            self._await_end(feeder, timeout_s=PATIENCE_S)
        for feeder in self.feeders:
            feeder.wait()  # closes its pipe
        self.feeders.clear()

    def settle(self) -> None:
        """Stop the producers, wait until the queues are empty and all results are read, and tell the workers to end.

        Raises:
            Transient: a producer or a worker did not become ready.
        """
        self.stop_feeders()
        self.options.on_progress("waiting for the last results")
        until = time.monotonic() + SETTLE_S
        while (self.outstanding() or not self.follower.is_up_to_date()) and time.monotonic() < until:
            time.sleep(0.1)
        # A worker that is not ready has no handler for SIGTERM yet, which would end it with another exit code.
        wait_until(
            lambda: all(each.name or each.exit_code is not None for each in self.workers), "the workers are ready"
        )
        for worker in self.workers:
            self._count_in_metrics(worker)
        for worker in list(self.workers):
            self.drain_worker(worker)

    def _count_in_metrics(self, worker: WorkerProcess) -> None:
        """Record the count in a live worker's metrics. A worker that has ended is noted by `drain_worker`."""
        if self.losses or worker.name is None or worker.exit_code is not None:
            return
        try:
            # A worker counts a job after the server has its result, and then lets go of it.
            wait_until(lambda: worker.counter("sortline_inflight_jobs") == 0, f"{worker.name} holds no jobs")
            counted = worker.counter("sortline_jobs_total")
        except (OSError, Transient) as error:
            self.note(GIVES_METRICS, f"{worker.name}: {error}; see {worker.log}")
        else:
            self.counts.append(WorkerCount(worker.name, "sortline_jobs_total", counted, is_final=True))

    def queued(self) -> dict[str, int]:
        """How many jobs wait, by queue, suspects included."""
        return {
            queue: self.client.llen(keys.rq_queue(queue)) + self.client.llen(keys.suspects(queue))
            for queue in self.settings.queue_names
        }

    def outstanding(self) -> int:
        """How many jobs wait or are leased. Read in one transaction, so that none is missed as it is claimed."""
        with self.client.pipeline(transaction=True) as pipeline:
            for queue in self.settings.queue_names:
                pipeline.zcard(keys.rq_wip(queue))
                pipeline.llen(keys.rq_queue(queue))
                pipeline.llen(keys.suspects(queue))
            return sum(pipeline.execute())

    def check_history(self) -> tuple[History, list[Breach]]:
        """The whole history, and the promises that were broken in it."""
        observed = self.follower.stop()
        for denial in denials(self.client) if self.server is not None else ():
            self.note(NEEDS_NO_MORE_RIGHTS, denial)
        history = History(
            ledger=read_ledger(self._ledgers),
            observed=observed,
            visible=read_visible(self.client, observed.entries),
            losses=self.losses,
            leftovers=read_leftovers(self.client, queues=self.settings.queue_names, expected=self.expected_keys),
            counts=self.counts,
            allowed_outcomes=self.allowed_outcomes,
            planted=self.planted,
        )
        return history, [*check(history), *(breach_of(promise, cases) for promise, cases in self.broken.items())]


def _is_alive_and(process: Process, is_ready: object) -> bool:
    if not is_ready:
        process.require_alive()
    return bool(is_ready)
