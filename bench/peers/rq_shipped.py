"""The peer `rq worker` as RQ ships it: a fork for every job, which loads the model for every job."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench.contenders.sortline_worker import drained_rate, in_process, run_rq
from bench.measuring.traffic import tail
from shared.errors import Transient
from shared.settings import Settings, environment
from shared.subprocesses import Child

_POLL_S = 0.1


def rq_worker_rate(settings: Settings, *, count: int) -> float:
    """Images/s of `rq worker` on a filled queue."""
    variables = environment(settings) | {"RQ_REDIS_URL": settings.redis_url}
    arguments = ["worker", "--burst", "--quiet", "--serializer", "rq.serializers.JSONSerializer", "live"]
    with tempfile.TemporaryDirectory(prefix="sortline-rq-") as folder:
        log = Path(folder) / "worker.log"
        with Child(arguments, log=log, module="rq.cli", variables=variables) as worker:
            while (code := worker.poll()) is None:
                time.sleep(_POLL_S)
            if code:
                raise Transient(f"rq worker ended with {code}: {tail(worker)}")
    return drained_rate(settings, count=count)


def rq_worker_null_rate(settings: Settings, *, count: int) -> float:
    """Jobs/s of `rq worker` with the null model, loaded before the first fork. Shows what the forks cost."""
    in_process(_run_null, settings)
    return drained_rate(settings, count=count)


def _run_null(settings: Settings) -> None:
    from rq import Worker

    from bench.engines.null import null_model
    from worker import tasks

    tasks.use(null_model(settings), settings)
    run_rq(Worker, settings)
