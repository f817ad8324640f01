"""What the worker's tests share: images, an engine whose answers can be worked out by hand, jobs, runs."""

from __future__ import annotations

import io
import json
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import redis
from numpy.typing import NDArray
from PIL import Image
from rq.job import Job
from rq.serializers import JSONSerializer

from model_store.bundle.manifest import Manifest
from model_store.bundle.policy import DEFAULT_THRESHOLD
from model_store.bundle.preprocessing import ImageDecoder, decoder_of
from producer.frames import Frame, PreparedJob
from producer.submit import LineProducer
from shared import keys
from shared.clock import ServerClock
from shared.errors import EngineFailed
from shared.images.arrays import Pixels
from shared.images.decode_cost import MAX_DECODE_S
from shared.images.decode_memory import MAX_DECODE_BYTES
from shared.images.decoding import MAX_BYTES, MAX_PX
from shared.schemas import SortResult
from shared.server.connection import connect
from shared.server.raw_connection import RawConnection
from shared.settings import Settings
from tests.kit import PATIENCE_S, wait_until
from tests.model_store.tiny_bundle import CLASSES, tiny_manifest
from worker.canary.comparer import Comparer, Comparisons
from worker.canary.tally import Comparison
from worker.models.decider import Decider
from worker.models.loading import LoadedModel
from worker.models.model import Model
from worker.models.result_cache import ResultCache
from worker.models.routing import ActiveCanary, ActiveModels, Serving
from worker.observe.metrics import Metrics
from worker.pipeline import Pipeline, PipelineComponents
from worker.rq.broken_keys import BrokenKeys
from worker.rq.claimer import Claimer
from worker.rq.finisher import Finisher
from worker.rq.leases import LeaseKeeper
from worker.rq.processes import Processes
from worker.service import WorkerService
from worker.state.batch_cost import BatchCost
from worker.state.inflight import Inflight
from worker.state.pixel_buffer import PixelBuffer

SIZE_PX = 32
# A folder without files: models in here live without a bundle.
NO_FILES = Path("/var/empty/no-such-folder")

BeforePredict = Callable[[Pixels], None]


def picture(red: int = 0, green: int = 0, *, blue: int = 0, size_px: int = SIZE_PX) -> bytes:
    """A PNG of one color: ToneEngine calls it `no cap` where it is red, `disfigured` where it is green."""
    stream = io.BytesIO()
    Image.new("RGB", (size_px, size_px), (red, green, blue)).save(stream, "PNG")
    return stream.getvalue()


def halves() -> bytes:
    """A PNG, red on the left and green on the right."""
    image = Image.new("RGB", (2 * SIZE_PX, SIZE_PX), (255, 0, 0))
    image.paste((0, 255, 0), (SIZE_PX, 0, 2 * SIZE_PX, SIZE_PX))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def broken_picture() -> bytes:
    """A PNG that ends early: its signature passes the producer, the worker's decoder rejects it."""
    return picture(200)[:60]


def nothing(batch: Pixels) -> None:
    """Let the engine answer normally."""


class ToneEngine:
    """An engine whose answer is the image's mean color: P(no cap) = red / 255, P(disfigured) = green / 255.

    `before` is called with each batch; what it raises is the engine's failure.
    """

    name = "litert"
    classes_count = len(CLASSES)
    max_concurrency = 1

    def __init__(self, before: BeforePredict = nothing, *, size_px: int = SIZE_PX) -> None:
        self._before = before
        self.input_size_px = size_px
        self.sizes: list[int] = []

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Nothing to warm."""

    def predict(self, batch: Pixels, *, on_ready_for_next: Callable[[], None] | None = None) -> NDArray[np.float32]:
        if on_ready_for_next is not None and self.max_concurrency > 1:
            on_ready_for_next()
        batch = np.asarray(batch)
        self.sizes.append(len(batch))
        self._before(batch)
        red, green, _ = (batch.mean(axis=(1, 2), dtype=np.float64) / 255).T
        return np.stack([(1 - red) * (1 - green), red, green], axis=1).astype(np.float32)


class Gate:
    """Holds an engine in `predict` until opened, so that a test can look at what is in flight."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, batch: Pixels) -> None:
        self.entered.set()
        assert self.opened.wait(PATIENCE_S), "nobody opened the gate"


class Clock:
    """The time of day, plus what a test adds: a deadline passes when the test says so, even on a slow machine."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead_s

    def pass_by(self, seconds: float) -> None:
        """Move the clock ahead."""
        self._ahead_s += seconds


def always_fails(batch: Pixels) -> None:
    """An engine that can't run any batch."""
    raise RuntimeError("out of order")


def fails_on_red(batch: Pixels) -> None:
    """An engine that can't run a batch with a fully red image in it."""
    if (batch[..., 0].mean(axis=(1, 2)) > 250).any():
        raise RuntimeError("can't stand red")


def manifest(folder: Path) -> Manifest:
    """The manifest that goes with ToneEngine: classes `good`, `no cap`, `disfigured`, thresholds 0.5."""
    assert DEFAULT_THRESHOLD == 0.5
    folder.mkdir(exist_ok=True)
    return tiny_manifest(folder, name="tone", version=3, mode="multi", size_px=SIZE_PX)


def model(engine: ToneEngine | None = None, *, version: int = 3, size_px: int = SIZE_PX, worker: str = "w1") -> Model:
    """A loaded model without files; decodes to `size_px` with the default limits."""
    engine = engine or ToneEngine(size_px=size_px)
    its_manifest = tiny_manifest(NO_FILES, name="tone", version=version, mode="multi", size_px=size_px)
    decoder = ImageDecoder(
        size_px,
        "stretch",
        (),
        max_bytes=MAX_BYTES,
        max_px=MAX_PX,
        max_decode_bytes=MAX_DECODE_BYTES,
        max_decode_s=MAX_DECODE_S,
    )
    decider = Decider(its_manifest, engine=engine.name, worker=worker)
    return Model(its_manifest, engine, decoder, decider, BatchCost(), PixelBuffer(8, size_px=size_px))


class Heard:
    """A sink that keeps a pipeline's comparisons for tests to look at."""

    def __init__(self) -> None:
        self.comparisons: list[Comparison] = []
        self.failures: list[tuple[ActiveCanary, EngineFailed]] = []

    def compared(self, canary: ActiveCanary, comparison: Comparison) -> None:
        self.comparisons.append(comparison)

    def failed(self, canary: ActiveCanary, error: EngineFailed) -> None:
        self.failures.append((canary, error))


def loaded_model(settings: Settings, engine: ToneEngine) -> LoadedModel:
    """A loaded model without a model store."""
    empty = settings.cache_path.parent / "no-files"
    its_manifest = manifest(empty)
    return LoadedModel(its_manifest, engine, decoder_of(its_manifest, settings))


# jobs ───────────────────────────────────────────────────────────────────────────────────────────────


def frame(data: bytes | None = None, *, line: str = "l1", **fields: Any) -> Frame:
    """A frame of camera `c1`."""
    return Frame(data=picture() if data is None else data, line=line, camera="c1", **fields)


def prepare(settings: Settings, frames: Sequence[Frame]) -> list[PreparedJob]:
    """Jobs that can be sent, and sent again to an emptied server, under the same ids."""
    return [LineProducer(settings).prepare(each) for each in frames]


def submit(settings: Settings, *frames: Frame) -> list[str]:
    """Put frames on their queues; their job ids."""
    return LineProducer(settings).submit_many(frames)


def forge(client: redis.Redis, job_id: str, **fields: Any) -> None:
    """Change fields of a queued job's ImageJob, past all that a producer checks."""
    key = keys.rq_job(job_id)
    function, instance, (argument,), keywords = json.loads(zlib.decompress(cast(bytes, client.hget(key, "data"))))
    client.hset(key, "data", zlib.compress(json.dumps([function, instance, [argument | fields], keywords]).encode()))


def fetch(client: redis.Redis, job_id: str) -> Job:
    """The job as RQ's own users get it."""
    return Job.fetch(job_id, connection=client, serializer=JSONSerializer)


def stream(client: redis.Redis, line: str = "l1") -> list[SortResult]:
    """All results of a line, oldest first."""
    return [SortResult.model_validate_json(entry[b"result"]) for _, entry in client.xrange(keys.results(line))]


def outcomes(client: redis.Redis, line: str = "l1") -> dict[str, str]:
    """Outcome by job id; fails on a job with two results."""
    results = stream(client, line)
    assert len({result.job_id for result in results}) == len(results), "a job has more than one result"
    return {result.job_id: result.outcome.value for result in results}


# steps ──────────────────────────────────────────────────────────────────────────────────────────────


def claimer(
    settings: Settings, *, worker: str = "w1", lease_s: int | None = None, broken_keys: BrokenKeys | None = None
) -> Claimer:
    """The claim step of `worker`."""
    return Claimer(
        connect(settings.redis_url),
        worker=worker,
        queues=settings.queue_names,
        lease_s=lease_s or settings.lease_s,
        broken_keys=broken_keys,
        max_image_bytes=settings.max_image_bytes,
    )


def finisher(settings: Settings, *, worker: str = "w1") -> Finisher:
    """The finish step of `worker`."""
    return Finisher(connect(settings.redis_url), worker=worker, settings=settings)


def keeper(
    settings: Settings,
    inflight: Inflight,
    *,
    worker: str = "w1",
    processes: Processes | None = None,
) -> LeaseKeeper:
    """The lease step of `worker`."""
    return LeaseKeeper(
        connect(settings.redis_url),
        worker=worker,
        queues=settings.queue_names,
        lease_s=settings.lease_s,
        max_losses=settings.max_losses,
        inflight=inflight,
        processes=processes,
    )


# runs ───────────────────────────────────────────────────────────────────────────────────────────────


def pipeline_components(
    settings: Settings,
    engine: ToneEngine | Serving,
    *,
    worker: str = "w1",
    comparisons: Comparisons | None = None,
    processes: Processes | None = None,
) -> PipelineComponents:
    """A pipeline's parts, each with a connection of its own."""
    inflight, metrics = Inflight(), Metrics()
    serving = engine if isinstance(engine, Serving) else Serving(model(engine, worker=worker))
    active_models = ActiveModels(serving, metrics=metrics)
    return PipelineComponents(
        claimer=claimer(settings, worker=worker, broken_keys=BrokenKeys(metrics.refused.inc)),
        image_connection=RawConnection(connect(settings.redis_url)),
        active_models=active_models,
        observer=Comparer(
            active_models, sink=comparisons or Heard(), max_waiting=3 * settings.max_batch, metrics=metrics
        ),
        cache=ResultCache(settings.result_cache_items, queues=settings.result_cache_queue_names, metrics=metrics),
        finisher=finisher(settings, worker=worker),
        keeper=keeper(settings, inflight, worker=worker, processes=processes),
        server_clock=ServerClock(
            connect(settings.redis_url),
            tolerance_s=settings.clock_tolerance_s,
            on_offset=metrics.clock_offset.set,
        ),
        inflight=inflight,
        metrics=metrics,
    )


class AgreeingServer:
    """Tells the time of a test's clock, like `redis.Redis.time`: the worker's clock and the server's agree."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def time(self) -> tuple[int, int]:
        """Seconds and microseconds."""
        now = self._clock()
        return int(now), int(now % 1 * 1e6)


def pipeline(
    settings: Settings,
    components: PipelineComponents,
    *,
    burst: bool = False,
    clock: Callable[[], float] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Pipeline:
    """A pipeline that isn't started. `clock` decides which deadlines are met, `monotonic` which threads hang."""
    if clock is not None:
        server = cast(redis.Redis, AgreeingServer(clock))
        server_clock = ServerClock(server, tolerance_s=settings.clock_tolerance_s, clock=clock)
        components = replace(components, server_clock=server_clock)
    two_threads = settings.model_copy(update={"decode_threads": 2})
    return Pipeline(components, two_threads, burst=burst, monotonic=monotonic)


def run_burst(settings: Settings, engine: ToneEngine | None = None, *, worker: str = "w1") -> Metrics:
    """Work until the queues are empty, without RQ's registration; the worker's metrics."""
    components = pipeline_components(settings, engine or ToneEngine(), worker=worker)
    run = pipeline(settings, components, burst=True)
    run.start()
    finish(run)
    return components.metrics


def finish(run: Pipeline) -> None:
    """Wait for a drained or burst pipeline to end; all its threads must have."""
    wait_until(lambda: run.supervisor.failed.is_set() or run.ended.is_set(), "the pipeline ends")
    assert not run.supervisor.failed.is_set(), "a thread of the pipeline died; see the log"
    assert run.supervisor.join(PATIENCE_S), f"a thread of the pipeline has not ended: {run.watchdog.health_problem()}"


def run_service(settings: Settings, engine: ToneEngine, *, name: str = "w1") -> int:
    """A whole worker in this (the main) thread, until the queues are empty; its exit code."""
    service = WorkerService(settings, burst=True, load=lambda given: loaded_model(given, engine))
    service.name = name
    return service.run()
