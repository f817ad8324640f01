"""One worker process: builds the parts, runs the pipeline, answers signals and probes."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import redis
from rq.worker import WorkerStatus

from model_store.bundle import open_bundle
from model_store.engines import Engine, open_engine, usable_cores
from model_store.manifest import Manifest
from model_store.store import ModelStore
from shared.connection import check, connect
from shared.errors import ServerAway
from shared.settings import Settings
from worker.claim import Claimer
from worker.decide import Decider
from worker.decode import Decoder, image_decoder
from worker.durability import warn_of_loss
from worker.finish import Finisher
from worker.http import StatusServer
from worker.leases import Inflight, LeaseKeeper
from worker.metrics import Metrics, QueueGauges
from worker.pipeline import Parts, Pipeline
from worker.presence import Presence, worker_name

log = logging.getLogger("sortline.worker")

BEAT_INTERVAL_S = 2.0
# A probe or a scrape must not hang while the server is away.
PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is loaded, verified and warm, and the decoder for its size."""

    manifest: Manifest
    engine: Engine
    decoder: Decoder


def load_served(settings: Settings) -> Served:
    """Load, verify and warm up the model that the settings name.

    Raises:
        NotFound: there is no such model, version or engine.
        BadBundle: the bundle is incomplete, was changed, or doesn't give its golden answers.
    """
    bundle = open_bundle(ModelStore(settings.model_store_dir).resolve(settings.model))
    engine = open_engine(bundle, settings.engine, threads=settings.engine_threads, max_batch=settings.max_batch)
    engine.warm_up([1, settings.max_batch])
    decoder = image_decoder(settings, size_px=bundle.manifest.input_size_px)
    return Served(bundle.manifest, engine, decoder)


class WorkerService:
    """Runs one worker in the calling (main) thread until its queues are drained or it is told to stop."""

    def __init__(
        self, settings: Settings, *, burst: bool = False, load: Callable[[Settings], Served] = load_served
    ) -> None:
        self._settings = settings
        self._burst = burst
        self._load = load
        self._metrics = Metrics()
        self._probe_client = connect(settings.redis_url, socket_timeout_s=PROBE_TIMEOUT_S)
        self._pipeline: Pipeline | None = None
        self._stop_signals = 0
        self.name = worker_name()

    def run(self) -> int:
        """Work until stopped; the exit code: 0 drained, 1 a thread died, 130 told twice to stop."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        status = self._status_server()
        status.start()
        try:
            served = self._timed_load()
            self._pipeline = self._build(served)
            return self._work(self._pipeline)
        finally:
            status.stop()

    def _work(self, pipeline: Pipeline) -> int:
        presence = self._arrive(pipeline)
        if presence is None:
            return 0
        if self._stop_signals:
            pipeline.drain()
        pipeline.start()
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
        log.info("worker %s is done", self.name)
        return 0

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
            BadSetting: the server refuses the login, which waiting does not mend.
        """
        url = self._settings.redis_url
        while not self._stop_signals:
            client = connect(url)
            try:
                check(client, url)
                presence = Presence(client, name=self.name, queues=self._settings.queue_names)
                presence.arrive()
                warn_of_loss(client)
                return presence
            except (ServerAway, redis.exceptions.RedisError) as error:
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

    def _timed_load(self) -> Served:
        started = time.perf_counter()
        served = self._load(self._settings)
        seconds = time.perf_counter() - started
        manifest = served.manifest
        self._metrics.model_load.set(seconds)
        self._metrics.model_info.labels(manifest.name, str(manifest.version), served.engine.name).set(1)
        log.info("%s@%d on %s is ready after %.2f s", manifest.name, manifest.version, served.engine.name, seconds)
        return served

    def _build(self, served: Served) -> Pipeline:
        settings, inflight = self._settings, Inflight()
        self._metrics.inflight.set_function(lambda: len(inflight))
        queues = settings.queue_names
        parts = Parts(
            # Each has a connection of its own: claim blocks, and leases must not wait for a large finish.
            claimer=Claimer(connect(settings.redis_url), worker=self.name, queues=queues, lease_s=settings.lease_s),
            decoder=served.decoder,
            engine=served.engine,
            decider=Decider(served.manifest, engine=served.engine.name, worker=self.name),
            finisher=Finisher(connect(settings.redis_url), worker=self.name, settings=settings),
            keeper=LeaseKeeper(
                connect(settings.redis_url),
                worker=self.name,
                queues=queues,
                lease_s=settings.lease_s,
                inflight=inflight,
            ),
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

    def _status_server(self) -> StatusServer:
        self._metrics.registry.register(QueueGauges(self._probe_client, queues=self._settings.queue_names))
        server = StatusServer(
            host=self._settings.metrics_host,
            port=self._settings.metrics_port,
            registry=self._metrics.registry,
            healthy=self._health_problem,
            ready=self._ready_problem,
        )
        log.info("metrics on http://%s:%d/metrics", self._settings.metrics_host, server.port)
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
