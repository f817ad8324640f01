"""One worker process: builds the parts, runs the pipeline, answers signals and probes."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import redis
from rq.worker import WorkerStatus

from model_store.engines import usable_cores
from model_store.store import open_store, parse_spec
from shared.clock import ServerClock
from shared.connection import check, connect
from shared.errors import Transient
from shared.server_answers import server_errors
from shared.settings import Settings
from shared.status_server import StatusServer
from worker.broken_keys import BrokenKeys
from worker.cache import ResultCache
from worker.canary import CanaryBook
from worker.claim import Claimer
from worker.durability import warn_of_loss
from worker.finish import Finisher
from worker.follow import Follower
from worker.leases import Inflight, LeaseKeeper
from worker.loading import Served, as_model, load_bundle, load_served, measure
from worker.metrics import Metrics, QueueGauges
from worker.pipeline import Parts, Pipeline
from worker.presence import Presence, worker_name
from worker.record import Recorder
from worker.serving import Model, Serving, Slot
from worker.sweep import Sweeper
from worker.upkeep import Upkeep

log = logging.getLogger("sortline.worker")

BEAT_INTERVAL_S = 2.0
# How long the end waits for a model that is just being loaded: the interpreter must not end under native code.
FOLLOW_END_S = 5.0
# A probe or a scrape must not hang while the server is away.
PROBE_TIMEOUT_S = 2.0


class WorkerService:
    """Runs one worker in the calling (main) thread until its queues are drained or it is told to stop."""

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
        self._follower: Follower | None = None
        self._recorder: Recorder | None = None
        self._stop_signals = 0
        self.name = worker_name()

    def run(self) -> int:
        """Work until stopped; the exit code: 0 drained, 1 a thread died, 130 told twice to stop."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        status = self._status_server()
        status.start()
        try:
            self._pipeline = self._build(self._timed_load())
            return self._work(self._pipeline)
        finally:
            status.stop()

    def _work(self, pipeline: Pipeline) -> int:
        presence = self._arrive(pipeline)
        if presence is None:
            return 0
        if self._stop_signals:
            pipeline.drain()
        self._start(pipeline)
        log.info("worker %s sorts %s", self.name, self._settings.queues)
        while not pipeline.ended.wait(BEAT_INTERVAL_S):
            if pipeline.loops.failed.is_set() or self._stop_signals > 1:
                return self._quit(pipeline, presence)
            self._beat(presence, pipeline)
        pipeline.loops.join(BEAT_INTERVAL_S)  # the lease thread may have something to give back
        try:
            presence.leave()
        except redis.exceptions.RedisError as error:
            log.warning("could not say goodbye to Redis: %s", error)
        self._upkeep.stop(BEAT_INTERVAL_S)
        self._stop_following()
        log.info("worker %s is done", self.name)
        return 0

    def _start(self, pipeline: Pipeline) -> None:
        if self._follower is not None and self._recorder is not None:
            self._recorder.start()
            self._follower.start()
        self._upkeep.start()
        pipeline.start()

    def _stop_following(self) -> None:
        if self._follower is not None and self._recorder is not None:
            self._recorder.stop(FOLLOW_END_S)
            self._follower.stop(FOLLOW_END_S)

    def _quit(self, pipeline: Pipeline, presence: Presence) -> int:
        """Give the leases back and end at once: threads may be inside native code that never returns."""
        code = 1 if pipeline.loops.failed.is_set() else 130
        try:
            log.warning("quitting: gave %d jobs back to their queues", pipeline.abandon())
            presence.leave()
        except redis.exceptions.RedisError as error:
            log.error("quitting without giving jobs back (%s); they return when their leases run out", error)
        logging.shutdown()
        os._exit(code)

    def _arrive(self, pipeline: Pipeline) -> Presence | None:
        """Register with RQ, however long the server takes to be there; None when told to stop meanwhile.

        Raises:
            BadSetting, CommandRefused: the server refuses what waiting does not mend, e.g. the login.
        """
        url = self._settings.redis_url
        while not self._stop_signals:
            client = connect(url)
            try:
                check(client, url)
                with server_errors(url):
                    presence = Presence(client, name=self.name, queues=self._settings.queue_names)
                    presence.arrive()
                    warn_of_loss(client)
                return presence
            except Transient as error:
                pipeline.loops.server_away("arrive", error)
        return None

    def _beat(self, presence: Presence, pipeline: Pipeline) -> None:
        try:
            presence.beat(state=WorkerStatus.IDLE if pipeline.idle else WorkerStatus.BUSY)
            presence.maintain()
        except redis.exceptions.RedisError as error:
            log.debug("no heartbeat: %s", error)  # the pipeline's loops say so aloud

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop_signals += 1
        if self._pipeline is not None and self._stop_signals == 1:
            self._pipeline.drain()
            log.info("%s: finishing what is held, claiming nothing more; once more quits", signal.Signals(number).name)

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
        return None if self._pipeline is None else self._pipeline.loops.problem()

    def _ready_problem(self) -> str | None:
        if self._pipeline is None:
            return "the model is being loaded"
        try:
            self._probe_client.ping()
        except redis.exceptions.RedisError as error:
            return f"Redis does not answer: {error}"
        return self._health_problem()
