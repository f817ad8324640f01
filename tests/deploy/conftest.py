"""One real worker with a tiny model, a camera, and one Prometheus that has watched both, for all tests of deploy/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from model_store.registry.canary import Canary
from model_store.registry.store import ModelStore
from producer import Frame, LineProducer, wait_for
from shared.server.embedded import embedded_server
from shared.settings import Settings
from tests.deploy.live import Prometheus, real_camera, real_prometheus, real_worker
from tests.kit import BOTTLES, needed_tool, wait_until
from tests.worker.models.versions import NAME, Versions

# A rate needs samples on both sides of an increase, so the bottles come in rounds with a scrape after each.
ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class LiveWorker:
    """A worker process that is ready, and how to reach its queue, its metrics and its model store."""

    address: str
    settings: Settings
    versions: Versions


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A Prometheus that has watched the worker sort, and the outcomes that the results gave."""

    prometheus: Prometheus
    outcomes: Counter[str]


@pytest.fixture(scope="session")
def live_worker(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveWorker]:
    """`sortline worker` as users start it, on a server and a model of its own."""
    folder = tmp_path_factory.mktemp("worker")
    versions = Versions(folder / "models", source=ModelStore(tiny_models).resolve(NAME))
    versions.publish()
    with embedded_server() as redis_url:
        environment = {
            "SORTLINE_REDIS_URL": redis_url,
            "SORTLINE_MODEL_STORE": str(folder / "models"),
            "SORTLINE_MODEL": NAME,
            "SORTLINE_STORE_POLL_S": "0.2",
        }
        with real_worker(environment, folder=folder) as address:
            yield LiveWorker(address=address, settings=Settings(redis_url=redis_url), versions=versions)


@pytest.fixture(scope="session")
def live_camera(live_worker: LiveWorker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the metrics of a camera that waits for its first picture."""
    folder = tmp_path_factory.mktemp("camera")
    with real_camera(live_worker.settings.redis_url, line="line-1", folder=folder) as address:
        yield address


@pytest.fixture(scope="session")
def watched(live_worker: LiveWorker, live_camera: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Versions that come and go, bottles in time, bottles too late and a broken image, while Prometheus watched."""
    needed_tool("prometheus", package="prometheus")
    settings = live_worker.settings
    folder = tmp_path_factory.mktemp("prometheus")
    with real_prometheus(live_worker.address, live_camera, folder=folder) as prometheus:
        wait_until(lambda: bool(prometheus.query("sortline_model_info")), "the first scrape")
        outcomes = _change_versions(live_worker, prometheus)
        for _ in range(ROUNDS):
            outcomes += _sort(settings, [*_bottles(), *_trouble()])
            _wait_for_the_scrape(prometheus, jobs=outcomes.total())
        yield Watched(prometheus=prometheus, outcomes=outcomes)


def _change_versions(live_worker: LiveWorker, prometheus: Prometheus) -> Counter[str]:
    """A canary that is stopped, a promotion, a canary that stays on, a version that is refused; in that order.

    This comes before any bottle is late, because a worker that was late compares nothing for some seconds.
    """
    versions, settings = live_worker.versions, live_worker.settings
    other = versions.publish(lane="elsewhere", promote=False)
    versions.store.set_canary(NAME, Canary(version=other, share=1, shadow=True, min_images=4))
    _wait_for(prometheus, "sum(sortline_canary_info)", "a canary")
    outcomes = _sort(settings, _bottles())
    _wait_for(prometheus, "sum(sortline_canary_stopped_total)", "the canary is stopped")

    versions.publish()
    _wait_for(prometheus, 'sum(sortline_model_swaps_total{result="swapped"})', "a swap")

    versions.store.set_canary(NAME, Canary(version=other, share=1, shadow=True, max_disagreement=1))
    _wait_for(prometheus, "sum(sortline_canary_info)", "another canary")
    outcomes += _sort(settings, _bottles())
    _wait_for(prometheus, "sum(sortline_canary_compared_total) > bool 0", "comparisons")

    damaged = versions.publish(promote=False)
    versions.damage(damaged)
    versions.point(damaged)
    _wait_for(prometheus, 'sum(sortline_model_swaps_total{result="refused"})', "a refusal")
    return outcomes


def _bottles() -> list[Frame]:
    images = [path.read_bytes() for path in sorted(BOTTLES.glob("*.jpg"))[:8]]
    return [
        Frame(data=data, line=line, camera="cam-1", deadline_ms=60_000, queue=queue)
        for data, line, queue in zip(images, ["line-1", "line-2"] * 4, ["live"] * 6 + ["bulk"] * 2, strict=True)
    ]


def _trouble() -> list[Frame]:
    image = min(BOTTLES.glob("*.jpg")).read_bytes()
    too_late = Frame(data=image, line="line-1", camera="cam-1", deadline_ms=0.001)
    broken = Frame(data=image[:2000], line="line-1", camera="cam-1", deadline_ms=60_000)
    return [too_late, broken]


def _sort(settings: Settings, frames: list[Frame]) -> Counter[str]:
    producer = LineProducer(settings)
    job_ids = producer.submit_many(frames)
    results = wait_for(job_ids, timeout_s=60, settings=settings).values()
    producer.close()
    return Counter(result.outcome.value for result in results)


def _wait_for(prometheus: Prometheus, promql: str, what: str) -> None:
    """Wait until the expression is 1."""
    wait_until(lambda: [float(sample["value"][1]) for sample in prometheus.query(promql)] == [1], what)


def _wait_for_the_scrape(prometheus: Prometheus, *, jobs: int) -> None:
    def counted() -> bool:
        return [float(sample["value"][1]) for sample in prometheus.query("sum(sortline_jobs_total)")] == [jobs]

    wait_until(counted, f"Prometheus counts {jobs} jobs")
