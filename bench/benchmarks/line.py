"""`bench line`: images/s end to end through Redis, with a model."""

from __future__ import annotations

import functools
import statistics

from bench.contenders.no_queue import no_queue_rate
from bench.contenders.queue_filler import QueueFiller
from bench.contenders.sortline_worker import bench_settings, simple_worker_rate, sortline_rate
from bench.measuring.rates import Contender, interleaved, ratios_to, spreads
from bench.measuring.record import OnProgress, Record
from bench.peers import celery_missing, mosec_missing, tensorflow_missing
from shared.settings import Settings

# The fewest images for a slow contender that batches: enough for a few batches, as the first batch doesn't count.
FEW = 64
# The images for `rq worker`, which loads the model again for each of them.
HANDFUL = 8


def bench_line(
    settings: Settings, *, rounds: int, jobs: int, size: str, on_progress: OnProgress, peers: bool = False
) -> Record:
    """Compare Sortline with its decoder and engine in one process without a queue, and with RQ's SimpleWorker.

    The SimpleWorker has its model preloaded. It is measured with the worker's engine and, if TensorFlow is installed,
    with TensorFlow too. `peers` adds `rq worker`, celery-batches and mosec. Slow contenders get fewer images.
    """
    settings = bench_settings(settings)
    filler = QueueFiller(settings, size)
    left_out: dict[str, str] = {}
    client_shares: list[float] = []
    contenders = _usual(settings, filler, jobs=jobs, left_out=left_out)
    if peers:
        contenders += _celery(settings, filler, jobs=jobs, left_out=left_out)
        contenders += _mosec(settings, filler, jobs=jobs, left_out=left_out, client_shares=client_shares)
        contenders.append(_rq_worker(settings, filler))
    rates = interleaved(contenders, rounds=rounds, title=f"line {size}", on_progress=on_progress)
    return {
        "benchmark": f"line {size}",
        "image_bytes_mean": filler.image_bytes_mean,
        "max_batch": settings.max_batch,
        "engine": settings.engine,
        "jobs": jobs,
        **spreads(rates, unit="images_per_s"),
        **ratios_to(rates, [key for key in rates if key != "sortline"]),
        **({"http_client_core_share": round(statistics.median(client_shares), 3)} if client_shares else {}),
        **({"left_out": left_out} if left_out else {}),
    }


def _usual(settings: Settings, filler: QueueFiller, *, jobs: int, left_out: dict[str, str]) -> list[Contender]:
    ceiling = functools.partial(no_queue_rate, settings)
    ours = functools.partial(sortline_rate, settings)
    simple = functools.partial(simple_worker_rate, settings)
    found = [
        Contender("no_queue", "decode + engine without a queue", filler.run_on_images(ceiling, count=jobs)),
        Contender("sortline", "sortline", filler.run_on_queue(ours, count=jobs)),
        Contender("rq_simple_worker", "RQ SimpleWorker, model preloaded", filler.run_on_queue(simple, count=jobs // 4)),
    ]
    key = "rq_simple_worker_tensorflow"
    if missing := tensorflow_missing():
        left_out[key] = missing
    else:
        slow = functools.partial(simple_worker_rate, _through_tensorflow(settings))
        title = "RQ SimpleWorker through TensorFlow, model preloaded"
        found.append(Contender(key, title, filler.run_on_queue(slow, count=max(FEW, jobs // 8))))
    return found


def _celery(settings: Settings, filler: QueueFiller, *, jobs: int, left_out: dict[str, str]) -> list[Contender]:
    from bench.peers.celery_batches import celery_batches_rate

    keys = ("celery_batches", "celery_batches_tensorflow")
    if missing := celery_missing():
        left_out.update(dict.fromkeys(keys, missing))
        return []
    ours = functools.partial(celery_batches_rate, settings)
    found = [Contender(keys[0], "celery-batches", filler.run_on_images(ours, count=max(FEW, jobs)))]
    if missing := tensorflow_missing():
        left_out[keys[1]] = missing
    else:
        slow = functools.partial(celery_batches_rate, _through_tensorflow(settings))
        found.append(
            Contender(
                keys[1], "celery-batches through TensorFlow", filler.run_on_images(slow, count=max(FEW, jobs // 4))
            )
        )
    return found


def _mosec(
    settings: Settings, filler: QueueFiller, *, jobs: int, left_out: dict[str, str], client_shares: list[float]
) -> list[Contender]:
    from bench.peers.mosec import mosec_rate

    if missing := mosec_missing():
        left_out["mosec"] = missing
        return []

    def rate(images: list[bytes]) -> float:
        images_per_s, client_share = mosec_rate(settings, images)
        client_shares.append(client_share)
        return images_per_s

    return [Contender("mosec", "mosec", filler.run_on_images(rate, count=jobs))]


def _rq_worker(settings: Settings, filler: QueueFiller) -> Contender:
    from bench.peers.rq_shipped import rq_worker_rate

    shipped = functools.partial(rq_worker_rate, settings)
    return Contender("rq_worker", "rq worker, as shipped", filler.run_on_queue(shipped, count=HANDFUL))


def _through_tensorflow(settings: Settings) -> Settings:
    return settings.model_copy(update={"engine": "tensorflow"})
