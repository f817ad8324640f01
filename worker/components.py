"""Builds the components of a worker's pipeline from its settings; `worker.service` starts what runs beside it."""

from __future__ import annotations

from shared.clock import ServerClock
from shared.server.connection import connect
from shared.server.raw_connection import RawConnection
from shared.settings import Settings
from worker.archive.archive import open_archive
from worker.canary.comparer import Comparer
from worker.canary.recorder import Recorder
from worker.models.result_cache import ResultCache
from worker.models.routing import ActiveModels
from worker.observe.metrics import Metrics
from worker.pipeline import Pipeline, PipelineComponents
from worker.rq.broken_keys import BrokenKeys
from worker.rq.capacity_report import CapacityReport
from worker.rq.claimer import Claimer
from worker.rq.finisher import Finisher
from worker.rq.leases import LeaseKeeper
from worker.state.pixel_buffer import BATCHES_HELD


def build_components(
    settings: Settings,
    *,
    worker: str,
    active_models: ActiveModels,
    recorder: Recorder,
    keeper: LeaseKeeper,
    server_clock: ServerClock,
    broken_keys: BrokenKeys,
    metrics: Metrics,
) -> PipelineComponents:
    """Build the components of one pipeline. Does not call the server.

    Args:
        settings: the worker's settings.
        worker: the worker's name.
        active_models: the models to sort with; the follower swaps them.
        recorder: counts the canary's comparisons.
        keeper: renews the worker's leases; the pipeline uses its in-flight set.
        server_clock: the clock of the Redis server.
        broken_keys: logs and counts keys that don't hold what they should.
        metrics: the worker's metrics.
    """
    return PipelineComponents(
        # Each has a connection of its own: a claim blocks, and leases must not wait for a large finish.
        claimer=Claimer(
            connect(settings.redis_url),
            worker=worker,
            queues=settings.queue_names,
            lease_s=settings.lease_s,
            broken_keys=broken_keys,
            max_image_bytes=settings.max_image_bytes,
        ),
        image_connection=RawConnection(connect(settings.redis_url)),
        active_models=active_models,
        observer=Comparer(
            active_models,
            sink=recorder,
            max_waiting=BATCHES_HELD * settings.max_batch,
            metrics=metrics,
            clock=server_clock.now,
        ),
        cache=ResultCache(settings.result_cache_items, queues=settings.result_cache_queue_names, metrics=metrics),
        finisher=Finisher(connect(settings.redis_url), worker=worker, settings=settings, broken_keys=broken_keys),
        keeper=keeper,
        server_clock=server_clock,
        inflight=keeper.inflight,
        metrics=metrics,
        archive=open_archive(settings, metrics=metrics),
    )


def build_capacity_report(
    settings: Settings, *, worker: str, pipeline: Pipeline, broken_keys: BrokenKeys
) -> CapacityReport:
    """Build what tells the server how much `worker` can do. Does not call the server."""
    return CapacityReport(
        connect(settings.redis_url),
        worker=worker,
        queues=settings.queue_names,
        max_batch=settings.max_batch,
        estimator=pipeline.capacity,
        workload=pipeline.workload,
        broken_keys=broken_keys,
    )
