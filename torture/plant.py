"""The plant under torture: workers and producers in processes of their own, and the checker's follower."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from shared import keys
from shared.connection import connect
from shared.settings import Settings, environment
from torture.checker import RQ_SUCCESSES, Breach, History, Loss, WorkerCount, breach_of, check
from torture.feeder import Feeding
from torture.follower import Entry, Follower, Seen
from torture.ledger import LedgerWriter, read_ledger
from torture.leftovers import read_leftovers
from torture.processes import Process, WorkerProcess, wait_until
from torture.server import TortureServer
from torture.worker_program import MARKS_VARIABLE

# A worker that is told to end has this long for what it holds.
DRAIN_S = 30.0
# Nothing may be left in the queues for so long: a lease may run out first, and then the sweep for lost jobs.
SETTLE_S = 300.0

# What was sent so long ago has reached the server, or was given up and is sent again.
IN_FLIGHT_S = 2.0

ENDS_WHEN_TOLD = "workers and producers end when they are told to, and in good order"

T = TypeVar("T")
Say = Callable[[str], None]


class Death(NamedTuple):
    """A worker that was killed, when (UTC epoch seconds), and the jobs that it held."""

    worker: str
    at: float
    job_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantOptions:
    """What a campaign is given."""

    settings: Settings
    server: TortureServer | None  # None where the server is somebody else's
    folder: Path
    engine: str
    seed: int
    say: Say


class Plant:
    """A context manager: inside it workers and producers run, after it none does.

    The campaign acts on `workers` and `feeders`, which it may kill, stop and start. `settle` and `judge` end it.
    """

    def __init__(self, options: PlantOptions) -> None:
        self.options = options
        self.settings = options.settings
        self.server = options.server
        self.random = random.Random(options.seed)  # noqa: S311 - a seed makes the choices repeatable
        self.client: Any = connect(self.settings.redis_url)
        self.workers: list[WorkerProcess] = []
        self.feeders: list[Process] = []
        self.deaths: list[Death] = []
        self.losses: list[Loss] = []
        self.counts: list[WorkerCount] = []
        self.broken: dict[str, list[str]] = {}  # promises that the campaign itself saw broken
        self.endings: dict[str, Collection[str]] = {}  # what the campaign sends: see History
        self.planted: set[str] = set()  # likewise
        self.expected_keys: set[str] = set()  # keys of the campaign's that rightly stay
        self.miscounted_in_rq: set[str] = set()  # workers whose hash, and so RQ's count, the campaign destroyed
        self.marks = options.folder / "marks.txt"
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._ledgers: list[Path] = []
        self.follower = Follower(self.settings.redis_url, queues=self.settings.queue_names)

    def __enter__(self) -> Plant:
        self.options.folder.mkdir(parents=True, exist_ok=True)
        self.marks.touch()
        self.follower.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self.feeders, *self.workers):
            process.kill()
        self._stack.close()
        self.client.close()

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Enter a context that is left when the plant is, after its workers have ended."""
        return self._stack.enter_context(context)

    # workers and producers ──────────────────────────────────────────────────────────────────────────

    def start_worker(self, settings: Settings | None = None) -> WorkerProcess:
        """One more worker, which may not be ready yet."""
        variables = environment(settings or self.settings) | {
            "SORTLINE_METRICS_PORT": "0",
            "SORTLINE_LOG_FORMAT": "text",
            MARKS_VARIABLE: str(self.marks),
        }
        worker = WorkerProcess(
            next(self._numbers), engine=self.options.engine, folder=self.options.folder, variables=variables
        )
        self.workers.append(worker)
        return worker

    def start_workers(self, count: int, settings: Settings | None = None) -> None:
        """So many, and wait until they are ready."""
        workers = [self.start_worker(settings) for _ in range(count)]
        wait_until(lambda: all(worker.name for worker in workers), "the workers are ready")

    @property
    def ready(self) -> list[WorkerProcess]:
        """The workers that claim jobs, or have just begun to."""
        return [worker for worker in self.workers if worker.name]

    def start_feeders(self, feedings: Sequence[Feeding], settings: Settings | None = None) -> None:
        """A producer for each of these, and wait until all of them send."""
        for feeding in feedings:
            self.start_feeder(feeding, settings)
        ledgers = self._ledgers[-len(feedings) :]
        wait_until(lambda: all(ledger.stat().st_size for ledger in ledgers), "the producers send")

    def start_feeder(self, feeding: Feeding, settings: Settings | None = None) -> Process:
        """One more producer, which may not send yet."""
        number = next(self._numbers)
        ledger = self._new_ledger(f"feeder-{number:05d}")
        arguments = [str(ledger), f"camera-{number}", str(self.random.getrandbits(32)), feeding.to_json()]
        variables = environment(settings or self.settings)
        feeder = Process("torture.feeder", *arguments, log=ledger.with_suffix(".log"), variables=variables)
        self.feeders.append(feeder)
        return feeder

    def open_ledger(self) -> LedgerWriter:
        """A ledger for what the campaign itself sends."""
        return LedgerWriter(self._new_ledger("campaign"))

    def _new_ledger(self, name: str) -> Path:
        ledger = self.options.folder / f"{name}.ledger"
        ledger.touch()
        self._ledgers.append(ledger)
        return ledger

    def kill_feeder(self, feeder: Process) -> None:
        """SIGKILL: what it has just sent may be on the server or not."""
        feeder.kill()
        self.feeders.remove(feeder)

    def kill_worker(self, worker: WorkerProcess) -> Death:
        """SIGKILL; what it held is known right after."""
        if worker.exit_code is not None:
            self.note(ENDS_WHEN_TOLD, f"{worker.name}: exit code {worker.exit_code}, see {worker.log}")
        worker.kill()
        return self.bury_worker(worker)

    def bury_worker(self, worker: WorkerProcess) -> Death:
        """Remember a worker that has ended without a drain, and what it held."""
        self.workers.remove(worker)
        at = time.time()
        name = worker.name or ""
        death = Death(name, at, self.held_by(name) if name else ())
        if name:
            self._count_in_rq(name, is_final=False)
        self.deaths.append(death)
        return death

    def drain_worker(self, worker: WorkerProcess, *, number: int = signal.SIGTERM, timeout_s: float = DRAIN_S) -> int:
        """Tell a worker to end, and wait until it has; its exit code."""
        worker.signal(number)
        code = worker.wait(timeout_s)
        self.workers.remove(worker)
        if worker.name:
            self._count_in_rq(worker.name, is_final=worker.name not in self.miscounted_in_rq)
        return code

    def held_by(self, worker: str) -> tuple[str, ...]:
        """The jobs that are leased to a worker, as RQ sees it."""
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
        """RQ's own count of a worker that has ended. Of a retried job RQ counts each execution as failed."""
        if self.losses:  # the count may be among what the server lost
            return
        succeeded = self.client.hget(keys.rq_worker(worker), RQ_SUCCESSES)
        self.counts.append(WorkerCount(worker, RQ_SUCCESSES, int(succeeded or 0), is_final))

    def lose(self, what: str, action: Callable[[], object]) -> None:
        """Have the server lose its data, and remember what that explains."""
        since = time.time() - IN_FLIGHT_S
        job_ids = self._jobs_on_the_server()
        action()
        self.losses.append(Loss(what, job_ids, since=since, until=time.time()))

    def _jobs_on_the_server(self) -> frozenset[str]:
        """The jobs that wait or are leased, and those with a result, which the follower need not have read yet."""
        with self.client.pipeline(transaction=True) as pipeline:
            for queue in self.settings.queue_names:
                pipeline.lrange(keys.rq_queue(queue), 0, -1)
                pipeline.zrange(keys.rq_wip(queue), 0, -1)
                pipeline.zrange(f"rq:finished:{queue}", 0, -1)
                pipeline.zrange(f"rq:failed:{queue}", 0, -1)
            answers = pipeline.execute()
        return frozenset(member.decode().partition(":")[0] for members in answers for member in members)

    def note(self, promise: str, example: str) -> None:
        """A promise was broken that only the campaign can know of."""
        self.broken.setdefault(promise, []).append(example)

    # the end ────────────────────────────────────────────────────────────────────────────────────────

    def stop_feeders(self) -> None:
        """Tell the producers to end, and wait until they have."""
        for feeder in self.feeders:
            if feeder.exit_code is not None:
                self.note(ENDS_WHEN_TOLD, f"a producer: exit code {feeder.exit_code}, see {feeder.log}")
            feeder.signal(signal.SIGTERM)
        for feeder in self.feeders:
            feeder.wait()
        self.feeders.clear()

    def settle(self) -> None:
        """Stop the producers, wait until the queues are empty, and let the workers end in good order.

        Raises:
            Transient: a producer or worker does not end.
        """
        self.stop_feeders()
        self.options.say("waiting for the last results")
        until = time.monotonic() + SETTLE_S
        while self.outstanding() and time.monotonic() < until:
            time.sleep(0.1)
        for worker in self.workers:
            if worker.name and worker.exit_code is None:
                counted = worker.counter("sortline_jobs_total")
                self.counts.append(WorkerCount(worker.name, "sortline_jobs_total", counted, is_final=True))
        for worker in list(self.workers):
            if code := self.drain_worker(worker):
                self.note(ENDS_WHEN_TOLD, f"{worker.name}: exit code {code}, see {worker.log}")

    def queued(self) -> dict[str, int]:
        """How many jobs wait, by queue."""
        return {queue: self.client.llen(keys.rq_queue(queue)) for queue in self.settings.queue_names}

    def outstanding(self) -> int:
        """How many jobs wait or are held."""
        leased = [int(self.client.zcard(keys.rq_wip(queue))) for queue in self.settings.queue_names]
        return sum(leased) + sum(self.queued().values())

    def judge(self) -> tuple[History, list[Breach]]:
        """The history until now, and the promises that were broken in it."""
        seen = self.follower.stop()
        self._forgive_lost(seen)
        history = History(
            ledger=read_ledger(self._ledgers),
            seen=seen,
            visible=self._visible(seen),
            losses=self.losses,
            leftovers=read_leftovers(self.client, queues=self.settings.queue_names, expected=self.expected_keys),
            counts=self.counts,
            endings=self.endings,
            planted=self.planted,
        )
        return history, [*check(history), *(breach_of(promise, cases) for promise, cases in self.broken.items())]

    def _visible(self, seen: Seen) -> Mapping[str, Sequence[Entry]]:
        several = {job_id: entries for job_id, entries in seen.entries.items() if len(entries) > 1}
        return {
            job_id: [entry for entry, exists in zip(entries, self._exist(entries), strict=True) if exists]
            for job_id, entries in several.items()
        }

    def _forgive_lost(self, seen: Seen) -> None:
        """RQ can't tell of jobs that the server has lost together with their results."""
        if not self.losses or not seen.wrong_status:
            return
        job_ids = list(seen.wrong_status)
        exist = self._exist([seen.entries[job_id][-1] for job_id in job_ids])
        for job_id, exists in zip(job_ids, exist, strict=True):
            if not exists:
                del seen.wrong_status[job_id]

    def _exist(self, entries: Sequence[Entry]) -> list[bool]:
        with self.client.pipeline(transaction=False) as pipeline:
            for entry in entries:
                pipeline.xrange(entry.stream, entry.entry_id, entry.entry_id)
            return [bool(found) for found in pipeline.execute()]


def times_to_result(deaths: Sequence[Death], seen: Seen) -> list[float]:
    """Seconds from the last death of a worker that held a job until another worker had answered it, for each job."""
    last_deaths = {job_id: death for death in deaths for job_id in death.job_ids}
    return [
        entry.finished_at - death.at
        for job_id, death in last_deaths.items()
        for entry in seen.entries.get(job_id, ())[:1]
        if entry.worker != death.worker
    ]
