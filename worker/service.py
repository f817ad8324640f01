"""One worker process: builds the components, runs the pipeline, answers signals and probes."""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

import redis
from rq.worker import WorkerStatus

from model_store.registry.store import ModelStore, open_store, parse_spec
from shared.clock import ServerClock
from shared.errors import Transient
from shared.native_memory import keep_free_memory
from shared.server.connection import connect
from shared.server.error_translation import explain
from shared.settings import Settings
from shared.status_server import StatusServer
from worker.background import in_background
from worker.canary.recorder import Recorder
from worker.canary.tally import CanaryTally
from worker.components import build_capacity_report, build_components
from worker.models.follower import Follower
from worker.models.loading import LoadedModel, as_model, load_bundle, load_model, measure
from worker.models.model import Model
from worker.models.routing import ActiveModels, Serving
from worker.observe.activity import ActivityLog
from worker.observe.metrics import Metrics
from worker.observe.queue_gauges import QueueGauges
from worker.observe.watchdog import CONFIRM_S
from worker.parent.causes import HANG, HANGING
from worker.parent.handover import Handover
from worker.pipeline import Pipeline
from worker.rq.broken_keys import BrokenKeys
from worker.rq.capacity_report import CapacityReport
from worker.rq.leases import LeaseKeeper
from worker.rq.maintenance import Maintenance
from worker.rq.processes import find_processes
from worker.rq.registration import RegistrationThread, new_worker_name
from worker.rq.server_check import check_server
from worker.rq.sweep import Sweeper
from worker.state.inflight import Inflight

log = logging.getLogger("sortline.worker")

T = TypeVar("T")

# How soon the main thread notices a signal or a thread that died.
POLL_INTERVAL_S = 0.5
# How long a starting worker waits for the server to accept the login and the database number, and how long for the
# predecessor's jobs to be taken back.
CHECK_S = 5.0
# How long an ending worker waits for its threads, for its registration with RQ to end, and for jobs to be given back.
JOIN_S = 2.0
UNREGISTER_WAIT_S = 5.0
GIVE_BACK_S = 5.0
# How long a worker with a hanging thread goes on, reported as unhealthy, before it ends: its other threads finish their
# jobs meanwhile.
RESTART_WAIT_S = 5.0
# How long an ending worker waits for a model that is being loaded: the interpreter must not end while native code runs.
FOLLOW_END_S = 5.0
# A probe or a scrape must not hang while Redis is unavailable.
PROBE_TIMEOUT_S = 2.0


class WorkerService:
    """Runs one worker in the calling (main) thread until its queues are drained or it is told to stop.

    The main thread only waits, for short times: it neither calls the server nor loads a model. So it notices signals
    and dead threads soon, whatever else hangs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        burst: bool = False,
        load: Callable[[Settings], LoadedModel] | None = None,
        handover: Handover | None = None,
    ) -> None:
        """Does not call the server.

        Args:
            settings: the worker's settings.
            burst: end when the queues are empty.
            load: loads the model instead of the model store; the worker then follows no promotions.
            handover: what the parent process passes on; None if there is no parent.
        """
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
        self._queue_gauges = QueueGauges(self._probe_client, queues=settings.queue_names)
        self._maintenance = Maintenance(
            sweeper=Sweeper(connect(settings.redis_url), queues=settings.queue_names, lease_s=settings.lease_s),
            server_clock=self._server_clock,
            activity=ActivityLog(self._metrics, self._queue_gauges),
            report_capacity=lambda: None if self._capacity_report is None else self._capacity_report.step(),
            metrics=self._metrics,
        )
        self._broken_keys = BrokenKeys(self._metrics.refused.inc)
        self._pipeline: Pipeline | None = None
        self._capacity_report: CapacityReport | None = None
        self._registration: RegistrationThread | None = None
        self._follower: Follower | None = None
        self._recorder: Recorder | None = None
        self._has_server_answered = False  # at the start
        self._signals = 0
        self._parent = None if handover is None else handover.parent
        self._predecessor = None if handover is None else handover.predecessor
        self.name = new_worker_name() if handover is None else handover.name

    def run(self) -> int:
        """Work until stopped.

        Returns:
            the exit code: 0 if the worker drained, 1 if a thread died, HANGING if a thread hangs, 130 if the worker was
            told to stop twice.

        Raises:
            BadSetting, CommandRefused: the server refuses something that waiting does not fix, e.g. the login.
            SortlineError: the model can't be loaded.
        """
        keep_free_memory()
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if self._parent is not None:
            self._parent.listen()
        status = self._status_server()
        status.start()
        try:
            answer = in_background("check", lambda: check_server(self._settings.redis_url))
            keeper = None
            if self._predecessor is not None:  # before the loading, which mutes the output of all threads
                keeper = self._wait_for(in_background("take-back", self._take_back), timeout_s=CHECK_S)
            model = self._wait_for(in_background("load", self._timed_load))
            if model is not None:
                self._await_server(answer)
            if model is None or self._stop_signals:  # a claim from a server that hangs would delay the end
                log.info("told to stop before the first claim: nothing was claimed")
                _end_at_once(0)
            self._pipeline = self._build(model, keeper)
            self._capacity_report = build_capacity_report(
                self._settings, worker=self.name, pipeline=self._pipeline, broken_keys=self._broken_keys
            )
            return self._run_guarded(self._pipeline)
        finally:
            status.stop()

    def _await_server(self, answer: Future[None]) -> None:
        """Raise an error of the check that waiting does not fix.

        If Redis is unavailable, the pipeline waits for it and logs why.
        """
        try:
            self._wait_for(answer, timeout_s=CHECK_S)
        except Transient:
            self._metrics.server_errors.labels("start").inc()
        else:
            self._has_server_answered = answer.done()

    def _wait_for(self, work: Future[T], *, timeout_s: float = float("inf")) -> T | None:
        """Return or raise what `work` does; return None if it takes too long or the worker is told to stop."""
        give_up_at = time.monotonic() + timeout_s
        while not self._stop_signals and time.monotonic() < give_up_at:
            if concurrent.futures.wait([work], POLL_INTERVAL_S).done:
                return work.result()
        return None

    def _run_guarded(self, pipeline: Pipeline) -> int:
        try:
            return self._work(pipeline)
        except Exception:  # give the jobs back, so that another worker gets them at once
            log.exception("the worker failed, and ends")
            self._quit(pipeline, 1)

    def _work(self, pipeline: Pipeline) -> int:
        self._start(pipeline)
        condition = "" if self._has_server_answered else " once the Redis server answers"
        log.info("worker %s sorts %s%s", self.name, ",".join(self._settings.queue_names), condition)
        if code := self._wait_for_end(pipeline):
            self._quit(pipeline, code)
        pipeline.join(JOIN_S)  # the lease thread may still give jobs back, and the archive may still write images
        if self._registration is not None and not self._registration.stop(UNREGISTER_WAIT_S):
            log.warning("Redis does not answer: RQ will show worker %s for another two minutes", self.name)
        self._maintenance.stop(JOIN_S)
        self._stop_following()
        log.info("worker %s is done", self.name)
        return 0

    def _start(self, pipeline: Pipeline) -> None:
        if self._follower is not None and self._recorder is not None:
            self._recorder.start()
            self._follower.start()
        self._maintenance.start()
        pipeline.start()
        # After the pipeline: a server whose memory is full refuses the registration, and only claims free its memory.
        self._registration = RegistrationThread(
            self._settings.redis_url,
            name=self.name,
            queues=self._settings.queue_names,
            state=lambda: _rq_state(pipeline),
            metrics=self._metrics,
        )
        self._registration.start()
        if self._parent is not None:
            self._parent.report_working()

    def _wait_for_end(self, pipeline: Pipeline) -> int:
        """Wait for the pipeline to end. Returns 0 then, or the exit code with which the worker must end at once."""
        is_draining = False
        while not pipeline.ended.wait(POLL_INTERVAL_S):
            if self._stop_signals > 1:
                return 130
            if pipeline.supervisor.failed.is_set():
                return 1
            if pipeline.watchdog.hanging.is_set():
                break
            if self._stop_signals and not is_draining:
                is_draining = True
                pipeline.drain()
                log.info("told to stop: finishing the jobs that are held, claiming no more; a second signal quits")
        return self._wait_for_restart() if pipeline.watchdog.hanging.is_set() else 0

    def _wait_for_restart(self) -> int:
        """Let the threads that don't hang finish their jobs. Then end: nothing else stops a native call."""
        give_up_at = time.monotonic() + RESTART_WAIT_S
        while not self._stop_signals and time.monotonic() < give_up_at:
            time.sleep(POLL_INTERVAL_S)
        return HANGING

    def _stop_following(self) -> None:
        if self._follower is not None and self._recorder is not None:
            self._recorder.stop(FOLLOW_END_S)
            self._follower.stop(FOLLOW_END_S)

    def _quit(self, pipeline: Pipeline, code: int) -> NoReturn:
        """Give the jobs back if the server answers soon, and end, even if threads are in calls that never return."""
        giving_back = in_background("quit", pipeline.abandon)
        try:
            log.warning("quitting: gave %d jobs back to their queues", giving_back.result(GIVE_BACK_S))
            if self._registration is not None:
                self._registration.stop(JOIN_S)
        except Exception as error:  # whatever the error is, the worker must end
            why = explain(error) or f"no answer within {GIVE_BACK_S:.0f} s"
            log.error(
                "quitting without giving jobs back (%s); they return when their leases run out, within %d s",
                why,
                self._settings.lease_s,
            )
        _end_at_once(code)

    @property
    def _stop_signals(self) -> int:
        """How often this worker was told to stop.

        The parent passes its signals on through a pipe. So a signal that reaches both processes, as Ctrl-C in a
        terminal does, is counted once.
        """
        return max(self._signals, 0 if self._parent is None else self._parent.stop_requests)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Do no more than this: the interrupted main thread may hold a lock for which the handler would wait forever.
        self._signals += 1

    def _timed_load(self) -> Model:
        started = time.perf_counter()
        loaded = (self._load or load_model)(self._settings)
        model = self._as_measured(loaded, batch_sizes=[1, self._settings.max_batch])
        seconds = time.perf_counter() - started
        self._metrics.model_load.set(seconds)
        log.info("%s is ready after %.2f s", str(model), seconds)
        return model

    def _load_in_background(self, store: ModelStore, folder: Path) -> Model:
        # A full batch would delay the images that are being sorted meanwhile.
        loaded = load_bundle(store.open_fetched(folder), self._settings, background=True)
        return self._as_measured(loaded, batch_sizes=[1])

    def _as_measured(self, loaded: LoadedModel, *, batch_sizes: Sequence[int]) -> Model:
        model = as_model(loaded, self._settings, worker=self.name)
        measure(model, batch_sizes=batch_sizes)
        return model

    def _build(self, model: Model, keeper: LeaseKeeper | None = None) -> Pipeline:
        settings, keeper = self._settings, keeper or self._new_keeper()
        inflight = keeper.inflight
        self._metrics.inflight.set_function(lambda: len(inflight))
        active_models = ActiveModels(Serving(model), metrics=self._metrics)
        self._recorder = self._follow(active_models)
        components = build_components(
            settings,
            worker=self.name,
            active_models=active_models,
            recorder=self._recorder,
            keeper=keeper,
            server_clock=self._server_clock,
            broken_keys=self._broken_keys,
            metrics=self._metrics,
        )
        return Pipeline(components, settings, lost_s=self._lost_s(), burst=self._burst)

    def _lost_s(self) -> float:
        """How many seconds of work the crash or hang of this worker's predecessor has cost; 0 if there was none."""
        before = self._predecessor
        if before is None or not before.is_explained:
            return 0.0
        hung_s = self._settings.stuck_after_s + CONFIRM_S + RESTART_WAIT_S if before.cause == HANG else 0.0
        return time.monotonic() - before.died_at + hung_s

    def _new_keeper(self) -> LeaseKeeper:
        keeper = LeaseKeeper(
            connect(self._settings.redis_url),
            worker=self.name,
            queues=self._settings.queue_names,
            lease_s=self._settings.lease_s,
            max_losses=self._settings.max_losses,
            inflight=Inflight(),
            broken_keys=self._broken_keys,
            processes=find_processes(parent_pid=None if self._parent is None else self._parent.pid),
        )
        if (before := self._predecessor) is not None:
            keeper.take_back_from(before.worker, crash=before.cause if before.is_explained else "")
        return keeper

    def _take_back(self) -> LeaseKeeper:
        """Take the predecessor's jobs back before the model is loaded, so that idle workers can claim them.

        Returns:
            the lease keeper that did it. The pipeline must use it too: it knows which jobs are still to be answered.
        """
        keeper = self._new_keeper()
        try:
            self._metrics.redelivered.inc(keeper.reap_early())
        except redis.exceptions.RedisError as error:
            log.info("the jobs of the worker before this one are taken back later: %s", explain(error) or error)
        return keeper

    def _follow(self, active_models: ActiveModels) -> Recorder:
        """Return the recorder. Also set `self._follower`, unless the settings or `load` fix the model."""
        settings, store = self._settings, open_store(self._settings)
        tally = CanaryTally(
            connect(settings.redis_url), name=active_models.current.stable.manifest.name, maxlen=settings.results_maxlen
        )
        _, pinned = parse_spec(settings.model)
        if self._load is None and pinned is None and settings.store_poll_s:
            self._follower = Follower(
                active_models,
                store=store,
                tally=tally,
                load=functools.partial(self._load_in_background, store),
                metrics=self._metrics,
                poll_s=settings.store_poll_s,
            )
        return Recorder(active_models, tally=tally, store=store, metrics=self._metrics)

    def _status_server(self) -> StatusServer:
        self._metrics.registry.register(self._queue_gauges)
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


def _rq_state(pipeline: Pipeline) -> WorkerStatus:
    if pipeline.suspended:
        return WorkerStatus.SUSPENDED
    return WorkerStatus.IDLE if pipeline.idle else WorkerStatus.BUSY


def _end_at_once(code: int) -> NoReturn:
    """End the process without waiting for its threads, which the interpreter would do: some may be in native code."""
    logging.shutdown()
    os._exit(code)
