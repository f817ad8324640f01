"""Our keys stay under `sortline:`, RQ's are the ones that RQ itself uses, and no two collide."""

from __future__ import annotations

import redis
from rq import Queue
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.suspension import WORKERS_SUSPENDED
from rq.worker import BaseWorker

from shared import keys

OURS = {
    keys.image("a1"): "sortline:image:a1",
    keys.results("line-1"): "sortline:results:line-1",
    keys.wakeup("live"): "sortline:bell:live",
    keys.LINES: "sortline:lines",
    keys.sweep(["live", "bulk"]): "sortline:sweep:bulk,live",
    keys.missing(["live"]): "sortline:sweep:live:suspects",
    keys.suspects("live"): "sortline:suspects:live",
    keys.processes("a-host", "live"): "sortline:processes:a-host:live",
}


def test_our_names_are_the_documented_ones() -> None:
    for built, documented in OURS.items():
        assert built == documented


def test_rq_names_are_rqs_own(client: redis.Redis) -> None:
    queue = Queue("live", connection=client)
    assert keys.rq_queue("live") == queue.key
    assert keys.rq_wip("live") == StartedJobRegistry(queue=queue).key
    assert keys.rq_finished("live") == FinishedJobRegistry(queue=queue).key
    assert keys.rq_failed("live") == FailedJobRegistry(queue=queue).key
    assert keys.rq_job("a1") == Job.key_for("a1")
    assert keys.rq_results("a1") == Result.get_key("a1")
    assert keys.rq_worker("w1") == BaseWorker.redis_worker_namespace_prefix + "w1"
    assert Queue.redis_queues_keys == keys.RQ_QUEUES
    assert keys.RQ_SUSPENDED == WORKERS_SUSPENDED
