"""One worker process: builds the parts, runs the pipeline, answers signals and probes."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from rq.worker import WorkerStatus

from model_store.registry.store import open_store, parse_spec
from shared.clock import ServerClock
from shared.cpu_cores import usable_cores
from shared.errors import Transient
from shared.server.connection import check, connect
from shared.server.error_translation import explain
from shared.settings import Settings
from shared.status_server import StatusServer
from worker.canary.recorder import Recorder
from worker.canary.tally import CanaryBook
from worker.models.follower import Follower
from worker.models.loading import Served, as_model, load_bundle, load_served, measure
from worker.models.routing import Model, Serving, Slot
from worker.observe.metrics import Metrics, QueueGauges
from worker.pipeline import Parts, Pipeline
from worker.rq.broken_keys import BrokenKeys
from worker.rq.leases import Inflight, LeaseKeeper
from worker.rq.maintenance import Upkeep
from worker.rq.processes import find_processes
from worker.rq.registration import PresenceThread, worker_name
from worker.rq.sweep import Sweeper
from worker.state.result_cache import ResultCache
from worker.steps.claim import Claimer
from worker.steps.finish import Finisher

log = logging.getLogger("sortline.worker")

T = TypeVar("T")

# How soon the main thread notices a signal, or a thread that died.
LOOK_S = 0.5
# How long the start waits for the server's word on the login and the database.
CHECK_S = 5.0
# How long the end waits for the threads, for RQ's registration to go, and for jobs to be given back.
JOIN_S = 2.0
GOODBYE_S = 5.0
GIVE_BACK_S = 5.0
# How long a worker with a hanging thread lets itself be found unhealthy: three probes of Kubernetes.
RESTART_WAIT_S = 30.0
# How long the end waits for a model that is just being loaded: the interpreter must not end under native code.
FOLLOW_END_S = 5.0
# A probe or a scrape must not hang while the server is away.
PROBE_TIMEOUT_S = 2.0


class WorkerService:
    """Runs one worker in the calling (main) thread until its queues are drained or it is told to stop.

    The main thread only waits, a moment at a time: it never asks the server, nor loads a model. So it notices signals
    and dead threads soon, whatever hangs.
    """

    def __init__(
        self, settings: Settings, *, burst: bool = False, load: Callable[[Settings], Served] | None = None
    ) -> None:
        """`load` gives a model from elsewhere than the model store; then there is nothing to follow."""
        self._settings = settings
        self._burst = burst
        self._load = load
        self._metrics = Metrics(max_lines=settings.metrics_max_lines)
        self._probe_client = connect(settings.redis_url, socket_timeout_s=PROBE_TIMEOUT_S)
        self._server_clock = ServerClock(
            connect(settings.redis_url, socket_timeout_s=PROBE_TIMEOUT_S),
            tolerance_s=settings.clock_tolerance_s,
            on_offset=self._metrics.clock_offset.set,
        )
        self._upkeep = Upkeep(
            sweeper=Sweeper(connect(settings.redis_url), queues=settings.queue_names, lease_s=settings.lease_s),
            server_clock=self._server_clock,
            metrics=self._metrics,
        )
        self._pipeline: Pipeline | None = None
        self._presence: PresenceThread | None = None
        self._follower: Follower | None = None
        self._recorder: Recorder | None = None
        self._stop_signals = 0
        self.name = worker_name()

    def run(self) -> int:
        """Work until stopped; the exit code: 0 drained, 1 a thread died or hangs, 130 told twice to stop.

        Raises:
            BadSetting, CommandRefused: the server refuses what waiting does not mend, e.g. the login.
            SortlineError: the model can't be loaded.
        """
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        status = self._status_server()
        status.start()
        try:
            url = self._settings.redis_url
            answer = in_background("check", lambda: check(connect(url), url))
            model = self._wait_for(in_background("load", self._timed_load))
            if model is not None:
                self._await_server(answer)
            if model is None or self._stop_signals:  # a claim of a server that hangs would hold up the end
                log.info("told to stop before the first claim: nothing was claimed")
                _end_at_once(0)
            self._pipeline = self._build(model)
            return self._guarded(self._pipeline)
        finally:
            status.stop()

    def _await_server(self, answer: Future[None]) -> None:
        """Find out at the start what waiting does not mend. If the server is away, the pipeline waits for it."""
        try:
            self._wait_for(answer, timeout_s=CHECK_S)
        except Transient as error:
            self._metrics.server_errors.labels("start").inc()
            log.error("%s", error)

    def _wait_for(self, work: Future[T], *, timeout_s: float = float("inf")) -> T | None:
        """What `work` returns or raises; None when it takes longer, or the worker is told to stop meanwhile."""
        give_up_at = time.monotonic() + timeout_s
        while not self._stop_signals and time.monotonic() < give_up_at:
            if concurrent.futures.wait([work], LOOK_S).done:
                return work.result()
        return None

    def _guarded(self, pipeline: Pipeline) -> int:
        try:
            return self._work(pipeline)
        except Exception:  # jobs are held, and another worker could have them at once
            log.exception("the worker failed, and ends")
            self._quit(pipeline, 1)

    def _work(self, pipeline: Pipeline) -> int:
        self._start(pipeline)
        log.info("worker %s sorts %s", self.name, self._settings.queues)
        if code := self._wait_for_end(pipeline):
            self._quit(pipeline, code)
        pipeline.loops.join(JOIN_S)  # the lease thread may have something to give back
        if self._presence is not None and not self._presence.stop(GOODBYE_S):
            log.warning("Redis does not answer: RQ will show worker %s for another two minutes", self.name)
        self._upkeep.stop(JOIN_S)
        self._stop_following()
        log.info("worker %s is done", self.name)
        return 0

    def _start(self, pipeline: Pipeline) -> None:
        if self._follower is not None and self._recorder is not None:
            self._recorder.start()
            self._follower.start()
        self._upkeep.start()
        pipeline.start()
        # Beside the pipeline, not before it: a full server refuses the registration, and only claims free memory.
        self._presence = PresenceThread(
            self._settings.redis_url,
            name=self.name,
            queues=self._settings.queue_names,
            state=lambda: _rq_state(pipeline),
            metrics=self._metrics,
        )
        self._presence.start()

    def _wait_for_end(self, pipeline: Pipeline) -> int:
        """0 when the pipeline has ended, else the exit code with which the worker must end at once."""
        is_draining = False
        while not pipeline.ended.wait(LOOK_S):
            if self._stop_signals > 1:
                return 130
            if pipeline.loops.failed.is_set():
                return 1
            if pipeline.watchdog.hanging.is_set():
                break
            if self._stop_signals and not is_draining:
                is_draining = True
                pipeline.drain()
                log.info("told to stop: finishing what is held, claiming nothing more; once more quits")
        return self._wait_for_restart() if pipeline.watchdog.hanging.is_set() else 0

    def _wait_for_restart(self) -> int:
        """Be unhealthy for a while, so that an orchestrator sees why; then end, as there may be no orchestrator."""
        give_up_at = time.monotonic() + RESTART_WAIT_S
        while not self._stop_signals and time.monotonic() < give_up_at:
            time.sleep(LOOK_S)
        return 1

    def _stop_following(self) -> None:
        if self._follower is not None and self._recorder is not None:
            self._recorder.stop(FOLLOW_END_S)
            self._follower.stop(FOLLOW_END_S)

    def _quit(self, pipeline: Pipeline, code: int) -> NoReturn:
        """Give the leases back, if the server answers soon, and end: threads may be inside calls that never return."""
        giving_back = in_background("quit", pipeline.abandon)
        try:
            log.warning("quitting: gave %d jobs back to their queues", giving_back.result(GIVE_BACK_S))
            if self._presence is not None:
                self._presence.stop(JOIN_S)
        except Exception as error:  # whatever it is, the worker must end
            why = explain(error) or f"no answer within {GIVE_BACK_S:.0f} s"
            log.error(
                "quitting without giving jobs back (%s); they return when their leases run out, within %d s",
                why,
                self._settings.lease_s,
            )
        _end_at_once(code)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Nothing more: what the main thread does just now may hold the lock that the handler would wait for.
        self._stop_signals += 1

    def _timed_load(self) -> Model:
        started = time.perf_counter()
        served = (self._load or load_served)(self._settings)
        model = self._measured(served)
        seconds = time.perf_counter() - started
        self._metrics.model_load.set(seconds)
        log.info("%s is ready after %.2f s", str(model), seconds)
        return model

    def _load_beside(self, folder: Path) -> Model:
        return self._measured(load_bundle(folder, self._settings, beside=True))

    def _measured(self, served: Served) -> Model:
        model = as_model(served, self._settings, worker=self.name)
        measure(model)
        return model

    def _build(self, model: Model) -> Pipeline:
        settings, inflight = self._settings, Inflight()
        self._metrics.inflight.set_function(lambda: len(inflight))
        slot = Slot(Serving(model), metrics=self._metrics)
        self._recorder = self._follow(slot)
        broken_keys = BrokenKeys(self._metrics.refused.inc)
        parts = Parts(
            # Each has a connection of its own: claim blocks, and leases must not wait for a large finish.
            claimer=Claimer(
                connect(settings.redis_url),
                worker=self.name,
                queues=settings.queue_names,
                lease_s=settings.lease_s,
                broken_keys=broken_keys,
                max_image_bytes=settings.max_image_bytes,
            ),
            slot=slot,
            comparisons=self._recorder,
            cache=ResultCache(
                settings.result_cache_items, queues=settings.result_cache_queue_names, metrics=self._metrics
            ),
            finisher=Finisher(
                connect(settings.redis_url), worker=self.name, settings=settings, broken_keys=broken_keys
            ),
            keeper=LeaseKeeper(
                connect(settings.redis_url),
                worker=self.name,
                queues=settings.queue_names,
                lease_s=settings.lease_s,
                inflight=inflight,
                broken_keys=broken_keys,
                processes=find_processes(),
            ),
            server_clock=self._server_clock,
            inflight=inflight,
            metrics=self._metrics,
        )
        return Pipeline(
            parts,
            max_batch=settings.max_batch,
            linger_s=settings.linger_ms / 1000,
            decode_threads=settings.decode_threads or usable_cores(),
            max_attempts=settings.max_attempts,
            lease_s=settings.lease_s,
            stuck_after_s=settings.stuck_after_s,
            burst=self._burst,
        )

    def _follow(self, slot: Slot) -> Recorder:
        """The recorder for what the follower will bring; no follower where the settings leave nothing to follow."""
        settings, store = self._settings, open_store(self._settings)
        book = CanaryBook(
            connect(settings.redis_url), name=slot.now.acting.manifest.name, maxlen=settings.results_maxlen
        )
        _, pinned = parse_spec(settings.model)
        if self._load is None and pinned is None and settings.store_poll_s:
            self._follower = Follower(
                slot,
                store=store,
                book=book,
                load=self._load_beside,
                metrics=self._metrics,
                poll_s=settings.store_poll_s,
            )
        return Recorder(slot, book=book, store=store, metrics=self._metrics)

    def _status_server(self) -> StatusServer:
        self._metrics.registry.register(QueueGauges(self._probe_client, queues=self._settings.queue_names))
        server = StatusServer(
            host=self._settings.metrics_host,
            port=self._settings.metrics_port,
            registry=self._metrics.registry,
            probes={"/healthz": self._health_problem, "/readyz": self._ready_problem},
        )
        log.info("metrics on %s", server.url)
        return server

    def _health_problem(self) -> str | None:
        return None if self._pipeline is None else self._pipeline.watchdog.health_problem()

    def _ready_problem(self) -> str | None:
        return "the model is being loaded" if self._pipeline is None else self._pipeline.ready_problem()


def in_background(name: str, work: Callable[[], T]) -> Future[T]:
    """Do `work` on a daemon thread of its own: not even the end of the interpreter waits for it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _rq_state(pipeline: Pipeline) -> WorkerStatus:
    if pipeline.suspended:
        return WorkerStatus.SUSPENDED
    return WorkerStatus.IDLE if pipeline.idle else WorkerStatus.BUSY


def _end_at_once(code: int) -> NoReturn:
    """Without waiting for threads, as the interpreter would: some may be inside native code."""
    logging.shutdown()
    os._exit(code)
