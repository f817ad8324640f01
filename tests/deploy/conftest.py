"""One real worker with a tiny model, and one Prometheus that has watched it sort, for all tests of deploy/."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from model_store.store import ModelStore
from producer import Frame, LineProducer, wait_for
from shared.embedded import embedded_server
from shared.settings import Settings
from tests.conftest import BOTTLES
from tests.deploy.live import Prometheus, real_prometheus, real_worker, wait_until
from tests.deploy.manifests import missing_tool
from tests.model_store.tiny_bundle import publish_tiny_bundle

# A rate needs samples on both sides of an increase, so the bottles come in rounds with a scrape after each.
ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class LiveWorker:
    """A worker process that is ready, and how to reach its queue and its metrics."""

    address: str
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A Prometheus that has watched the worker sort, and the outcomes that the results gave."""

    prometheus: Prometheus
    outcomes: Counter[str]


@pytest.fixture(scope="session")
def live_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveWorker]:
    """`sortline worker` as users start it, on a server and a model of its own."""
    folder = tmp_path_factory.mktemp("worker")
    publish_tiny_bundle(ModelStore(folder / "models"))
    with embedded_server() as redis_url:
        environment = {
            "SORTLINE_REDIS_URL": redis_url,
            "SORTLINE_MODEL_STORE": str(folder / "models"),
            "SORTLINE_MODEL": "tiny",
        }
        with real_worker(environment, folder=folder) as address:
            yield LiveWorker(address=address, settings=Settings(redis_url=redis_url))


@pytest.fixture(scope="session")
def watched(live_worker: LiveWorker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Bottles in time, bottles too late and a broken image, sorted while Prometheus watched."""
    if shutil.which("prometheus") is None:
        missing_tool("prometheus is not installed: apt-get install prometheus")
    outcomes: Counter[str] = Counter()
    with real_prometheus(live_worker.address, folder=tmp_path_factory.mktemp("prometheus")) as prometheus:
        for _ in range(ROUNDS):
            outcomes += _sort_a_round(live_worker.settings)
            _wait_for_the_scrape(prometheus, jobs=outcomes.total())
        yield Watched(prometheus=prometheus, outcomes=outcomes)


def _sort_a_round(settings: Settings) -> Counter[str]:
    bottles = [path.read_bytes() for path in sorted(BOTTLES.glob("*.jpg"))[:8]]
    in_time = [
        Frame(data=data, line=line, camera="cam-1", deadline_ms=60_000, queue=queue)
        for data, line, queue in zip(bottles, ["line-1", "line-2"] * 4, ["live"] * 6 + ["bulk"] * 2, strict=True)
    ]
    too_late = Frame(data=bottles[0], line="line-1", camera="cam-1", deadline_ms=0.001)
    broken = Frame(data=bottles[0][:2000], line="line-1", camera="cam-1", deadline_ms=60_000)
    producer = LineProducer(settings)
    job_ids = producer.submit_many([*in_time, too_late, broken])
    results = wait_for(job_ids, timeout_s=60, settings=settings).values()
    producer.close()
    return Counter(result.outcome.value for result in results)


def _wait_for_the_scrape(prometheus: Prometheus, *, jobs: int) -> None:
    def counted() -> bool:
        return [float(sample["value"][1]) for sample in prometheus.query("sum(sortline_jobs_total)")] == [jobs]

    wait_until(counted, what=f"Prometheus counts {jobs} jobs")
