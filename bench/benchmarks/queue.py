"""`bench queue`: jobs/s with an engine that answers at once and images of 30 KB."""

from __future__ import annotations

import functools

from bench.contenders.bare_scripts import STEP_JOBS, bare_rate
from bench.contenders.queue_filler import QueueFiller
from bench.contenders.sortline_worker import bench_settings, simple_worker_rate, sortline_rate, two_workers_rate
from bench.measuring.rates import Contender, Rates, interleaved, ratio, ratios_to, spreads
from bench.measuring.record import OnProgress, Record
from bench.peers import celery_missing
from shared.settings import Settings

# A JPEG of about 30 KB.
FRAME, QUALITY = "608x456", 85


def bench_queue(settings: Settings, *, rounds: int, jobs: int, on_progress: OnProgress, peers: bool = False) -> Record:
    """Compare one and two of Sortline's workers, the bare scripts and RQ's SimpleWorker, all on the same server.

    Every contender that batches takes as many jobs at once as the bare scripts do, unless the settings set
    `max_batch`. `peers` adds `rq worker` and celery-batches. Slow contenders get fewer jobs, so that each takes
    seconds and not minutes.
    """
    settings = with_step_batches(bench_settings(settings))
    filler = QueueFiller(settings, FRAME, QUALITY)
    contenders = _usual(settings, filler, jobs=jobs)
    left_out: dict[str, str] = {}
    if peers:
        contenders += _peers(settings, filler, jobs=jobs, left_out=left_out)
    rates = interleaved(contenders, rounds=rounds, title="queue", on_progress=on_progress)
    return {
        "benchmark": "queue",
        "image_bytes_mean": filler.image_bytes_mean,
        "max_batch": settings.max_batch,
        "jobs": jobs,
        **figures(rates),
        **({"left_out": left_out} if left_out else {}),
    }


def figures(rates: Rates) -> Record:
    """Jobs/s of each contender, Sortline's ratio to each other one, and that of two workers of Sortline to one."""
    others = [key for key in rates if not key.startswith("sortline")]
    return {
        **spreads(rates, unit="jobs_per_s"),
        **ratios_to(rates, others),
        "ratio_two_to_one": ratio(rates, "sortline_two_workers", to="sortline"),
    }


def with_step_batches(settings: Settings) -> Settings:
    """The settings, with batches as large as a step of the bare scripts unless they set `max_batch` themselves.

    The null engine stands for a fast GPU, which needs batches at least this large.
    """
    if "max_batch" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"max_batch": STEP_JOBS})


def _usual(settings: Settings, filler: QueueFiller, *, jobs: int) -> list[Contender]:
    ours = functools.partial(sortline_rate, settings, null=True)
    two = functools.partial(two_workers_rate, settings)
    bare = functools.partial(bare_rate, settings)
    simple = functools.partial(simple_worker_rate, settings, null=True)
    return [
        Contender("sortline", "sortline", filler.run_on_queue(ours, count=jobs)),
        Contender("sortline_two_workers", "two workers of sortline", filler.run_on_queue(two, count=jobs)),
        Contender("bare_scripts", "the scripts alone", filler.run_on_queue(bare, count=jobs)),
        Contender("rq_simple_worker", "RQ SimpleWorker", filler.run_on_queue(simple, count=max(100, jobs // 20))),
    ]


def _peers(settings: Settings, filler: QueueFiller, *, jobs: int, left_out: dict[str, str]) -> list[Contender]:
    from bench.peers.celery_batches import celery_batches_rate
    from bench.peers.rq_shipped import rq_worker_null_rate

    shipped = functools.partial(rq_worker_null_rate, settings)
    found = [Contender("rq_worker", "rq worker", filler.run_on_queue(shipped, count=max(20, jobs // 200)))]
    if missing := celery_missing():
        left_out["celery_batches"] = missing
    else:
        celery = functools.partial(celery_batches_rate, settings, null=True)
        found.append(
            Contender("celery_batches", "celery-batches", filler.run_on_images(celery, count=max(100, jobs // 5)))
        )
    return found
