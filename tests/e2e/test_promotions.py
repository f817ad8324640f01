"""A real worker follows a real store: promotions, refusals, canaries, rollbacks, under load."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from model_store.bundle.signing import make_key
from model_store.registry.canary import Canary
from producer import Frame, LineProducer
from shared import keys
from shared.schemas import SortResult
from shared.settings import Settings
from tests.e2e.kit import answers, metric, ready, stop, worker
from tests.kit import BOTTLES, wait_until
from tests.worker.models.versions import NAME, Versions, own_versions

pytestmark = pytest.mark.e2e

LINE = "line-1"
SWAPS = 50
# Frames a second: about a quarter of what a worker on this model does on one core.
RATE_HZ = 100


@pytest.fixture
def setting(settings: Settings, tiny_models: Path) -> tuple[Versions, Settings]:
    return own_versions(settings, tiny_models)


class Plant:
    """A running worker and a camera that never stops."""

    def __init__(self, versions: Versions, settings: Settings, *, client: redis.Redis, log: Path) -> None:
        self.versions, self.store, self.log = versions, versions.store, log
        self._settings, self._client = settings, client
        self._bottles = [path.read_bytes() for path in sorted(BOTTLES.glob("*.jpg"))[:20]]
        self._ended = threading.Event()
        self._camera = threading.Thread(target=self._film)
        self.job_ids: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """The worker ready and the camera on; at the end every image that was sent must be answered."""
        with worker(self._settings, log=self.log) as process:
            wait_until(lambda: ready(self.log), "the worker is ready")
            self._camera.start()
            try:
                wait_until(lambda: self.results(), "the first result")
                yield
            finally:
                self._ended.set()
                self._camera.join()
            wait_until(lambda: self._client.xlen(keys.results(LINE)) >= len(self.job_ids), "all are answered")
            assert answers(self.log, "/healthz") == "ok\n"
            assert stop(process) == 0, self.log.read_text()

    def _film(self) -> None:
        producer = LineProducer(self._settings)
        while not self._ended.wait(10 / RATE_HZ):
            number = len(self.job_ids)
            frames = [
                Frame(data=self._bottles[i % 20], line=LINE, camera="cam-1", frame_id=i)
                for i in range(number, number + 10)
            ]
            self.job_ids += producer.submit_many(frames)

    def results(self) -> list[SortResult]:
        """All results by now."""
        entries = self._client.xrange(keys.results(LINE))
        return [SortResult.model_validate_json(fields[b"result"]) for _, fields in entries]

    def newest(self) -> SortResult:
        """The last result."""
        ((_, fields),) = self._client.xrevrange(keys.results(LINE), count=1)
        return SortResult.model_validate_json(fields[b"result"])

    def serves(self, version: int) -> None:
        """Wait until results come from this version."""

        def served() -> bool:
            model = self.newest().model
            return model is not None and model.version == version

        self.until(served, f"version {version} is served")

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait until `true` holds, or fail with the worker's log."""
        wait_until(true, what, log=self.log)

    def shows_no_canary(self) -> None:
        """Wait until no canary is among the worker's metrics: they change one by one."""
        self.until(
            lambda: "sortline_canary_info{" not in (answers(self.log, "/metrics") or "sortline_canary_info{"),
            "the canary is shown no more",
        )

    def all_answered_once(self) -> None:
        """No image lost, doubled, failed or rejected."""
        results = self.results()
        assert Counter(result.job_id for result in results) == Counter(self.job_ids)
        assert Counter(result.outcome.value for result in results) == {"sorted": len(self.job_ids)}
        assert {result.attempt for result in results} == {1}


@pytest.fixture
def plant(setting: tuple[Versions, Settings], client: redis.Redis, tmp_path: Path) -> Plant:
    return Plant(*setting, client=client, log=tmp_path / "worker.log")


def test_a_promotion_reaches_the_worker_and_a_damaged_one_does_not(plant: Plant) -> None:
    with plant.running():
        plant.versions.publish(lane="two")
        plant.serves(2)
        plant.versions.publish(lane="three", promote=False)
        plant.versions.damage(3)
        plant.versions.point(3)
        plant.until(lambda: metric(plant.log, 'sortline_model_swaps_total{result="refused"}'), "3 is refused")
        assert answers(plant.log, "/readyz") == "ok\n"
        assert metric(plant.log, 'sortline_model_info{engine="litert",name="tiny",version="2"}') == 1
        plant.versions.publish(lane="four")
        plant.serves(4)
    assert "tiny@3 is refused, tiny@2 on litert goes on" in plant.log.read_text()
    plant.all_answered_once()
    lanes = {1: "one", 2: "two", 4: "four"}
    made_by = {(result.model.version, result.lane) for result in plant.results() if result.model}
    assert made_by == set(lanes.items()), "a result names another version than the one that made it"


def test_a_promoted_version_that_nobody_has_signed_is_refused(
    setting: tuple[Versions, Settings], client: redis.Redis, tmp_path: Path
) -> None:
    versions, settings = setting
    signer = make_key(tmp_path / "release.key", passphrase=None)
    versions.store.sign(NAME, 1, signer)
    strict = settings.model_copy(update={"trusted_keys": str(signer.public_key)})
    plant = Plant(versions, strict, client=client, log=tmp_path / "worker.log")
    with plant.running():
        versions.publish(lane="two")  # by somebody who can write the store, and sets no keys
        plant.until(lambda: metric(plant.log, 'sortline_model_swaps_total{result="refused"}'), "2 is refused")
        versions.publish(lane="three", promote=False)
        versions.store.sign(NAME, 3, signer)
        versions.store.promote(NAME, 3)
        plant.serves(3)
    assert "tiny@2 is refused, tiny@1 on litert goes on: tiny@2 is not signed" in plant.log.read_text()
    plant.all_answered_once()
    assert {(result.model.version, result.lane) for result in plant.results() if result.model} == {
        (1, "one"),
        (3, "three"),
    }


def test_fifty_promotions_and_rollbacks_under_load(plant: Plant) -> None:
    """Four promotions, to versions that the worker has not kept and has to load, then a rollback; again and again."""
    for lane in ("two", "three"):
        plant.versions.publish(lane=lane, promote=False)
    lanes = {1: "one", 2: "two", 3: "three"}
    with plant.running():
        version = 1
        for number in range(SWAPS):
            if number % 5 == 4:
                version = plant.store.rollback(NAME)
            else:
                version = version % 3 + 1
                plant.store.promote(NAME, version)
            plant.serves(version)
        assert metric(plant.log, 'sortline_model_swaps_total{result="swapped"}') == SWAPS
    plant.all_answered_once()
    assert {(result.model.version, result.lane) for result in plant.results() if result.model} == set(lanes.items())


def test_a_canary_takes_its_share_and_is_promoted(plant: Plant) -> None:
    plant.versions.publish(promote=False, lane="one")
    with plant.running():
        plant.store.set_canary(NAME, Canary(version=2, share=0.3, min_images=50))
        plant.until(
            lambda: metric(plant.log, 'sortline_canary_compared_total{version="2"}') > 60, "images are compared"
        )
        assert metric(plant.log, 'sortline_canary_disagreed_total{version="2"}') == 0
        assert metric(plant.log, 'sortline_canary_info{mode="canary",name="tiny",share="0.3",version="2"}') == 1
        plant.store.promote(NAME, 2)
        plant.until(
            lambda: metric(plant.log, 'sortline_model_info{engine="litert",name="tiny",version="2"}'), "it is promoted"
        )
        plant.shows_no_canary()
        count = len(plant.job_ids)
        plant.until(lambda: len(plant.results()) > count + 30, "more results come")
    plant.all_answered_once()
    versions = [result.model.version for result in plant.results() if result.model]
    first, last = versions.index(2), len(versions) - versions[::-1].index(1)
    assert 0.15 < versions[first:last].count(2) / (last - first) < 0.5
    assert set(versions[last:]) == {2}


def test_a_shadow_that_disagrees_is_stopped_by_itself(plant: Plant, client: redis.Redis) -> None:
    plant.versions.publish(promote=False, lane="elsewhere")
    with plant.running():
        plant.store.set_canary(NAME, Canary(version=2, share=0.5, shadow=True, min_images=40, lines=(LINE,)))
        stopped = 'sortline_canary_stopped_total{reason="disagreement"}'
        plant.until(lambda: metric(plant.log, stopped) == 1, "it is stopped")
        plant.until(lambda: plant.store.canary(NAME) is None, "the store's canary is cleared")
        plant.shows_no_canary()
    plant.all_answered_once()
    assert {(result.model.version, result.lane) for result in plant.results() if result.model} == {(1, "one")}
    assert client.xlen(keys.shadow(LINE)) >= 5, "more than a tenth of 40"


def test_a_canary_that_acts_and_disagrees_is_rolled_back(plant: Plant) -> None:
    plant.versions.publish(promote=False, lane="elsewhere")
    with plant.running():
        plant.store.set_canary(NAME, Canary(version=2, share=0.5, min_images=40))
        plant.until(lambda: plant.store.canary(NAME) is None, "it is stopped, and the store's canary cleared")
        count = len(plant.job_ids)
        plant.until(lambda: len(plant.results()) > count + 60, "more results come")
    plant.all_answered_once()
    results = plant.results()
    by_version = Counter(result.model.version for result in results if result.model)
    assert by_version[2] > 0
    assert {result.model.version for result in results[-30:] if result.model} == {1}
    assert "canary tiny@2 on litert is stopped" in plant.log.read_text()
