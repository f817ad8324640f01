"""The pipeline with more than one model: swaps between batches, canaries, shadows."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import redis

from model_store.bundle.preprocessing import decoder_of
from model_store.registry.canary import Canary
from shared.images.crop_regions import Region
from shared.images.decode_cost import is_costly
from shared.schemas import SortResult
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import Gate, Heard, ToneEngine, frame, picture
from worker.models.model import Model
from worker.models.routing import ActiveCanary, ActiveModels, Serving, hash_fraction
from worker.pipeline import Pipeline

TONES = (0, 80, 160, 240)


def active_canary(model: Model, *, share: float = 0.5, shadow: bool = False) -> ActiveCanary:
    return ActiveCanary(Canary(version=model.version, share=share, shadow=shadow), model)


def versions(results: list[SortResult]) -> Counter[int]:
    """How many results each version made."""
    return Counter(result.model.version for result in results if result.model is not None)


class Line:
    """A pipeline that runs until it is told to stop, and the comparisons that it reports."""

    def __init__(self, settings: Settings, serving: Serving) -> None:
        self.heard = Heard()
        self.components = kit.pipeline_components(settings, serving, comparisons=self.heard)
        self.active_models: ActiveModels = self.components.active_models
        self.run: Pipeline = kit.pipeline(settings, self.components)
        self.settings = settings
        self.run.start()

    def sort(self, client: redis.Redis, *tones: int, deadline_ms: float | None = None) -> list[SortResult]:
        """Submit pictures of these shades and wait until all are answered; their results."""
        before = len(kit.stream(client))
        frames = [frame(picture(tone), frame_id=tone, deadline_ms=deadline_ms) for tone in tones]
        kit.submit(self.settings, *frames)
        kit.wait_until(lambda: len(kit.stream(client)) == before + len(tones), "all are answered")
        return kit.stream(client)[before:]

    def end(self) -> None:
        self.run.drain()
        kit.finish(self.run)


# swaps ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_swap_changes_nothing_for_images_that_were_decoded_before_it(settings: Settings, client: redis.Redis) -> None:
    """Some are in the old model's engine and some wait for it. They would not fit the new model, which takes 48 px."""
    gate = Gate()
    small = settings.model_copy(update={"max_batch": 2, "linger_ms": 10_000.0})  # full batches only
    line = Line(small, Serving(kit.model(ToneEngine(gate), version=1)))
    early = kit.submit(small, *[frame() for _ in range(4)])
    assert gate.entered.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: len(line.run._flow.batcher) == 2, "two are in the model, two are decoded")
    line.active_models.activate(kit.model(version=2, size_px=48), None)
    late = kit.submit(small, *[frame() for _ in range(2)])
    kit.wait_until(lambda: len(line.run._flow.batcher) == 4, "two are decoded for the new model")
    gate.opened.set()
    line.end()
    by = {result.job_id: result.model.version for result in kit.stream(client) if result.model}
    assert by == dict.fromkeys(early, 1) | dict.fromkeys(late, 2)
    assert set(kit.outcomes(client).values()) == {"sorted"}


def test_many_swaps_under_load_lose_no_job_and_answer_none_twice(settings: Settings, client: redis.Redis) -> None:
    models = [kit.model(version=version, size_px=32 + 16 * (version % 2)) for version in range(1, 5)]
    line = Line(settings, Serving(models[0]))
    stop = threading.Event()

    def swap() -> None:
        number = 0
        while not stop.wait(0.002):
            number += 1
            line.active_models.activate(
                models[number % 4], active_canary(models[(number + 1) % 4]) if number % 3 else None
            )

    job_ids: list[str] = []

    def all_had_their_turn() -> bool:
        job_ids.extend(kit.submit(settings, *[frame(picture(tone)) for tone in TONES * 5]))
        return len(job_ids) >= 600 and set(versions(kit.stream(client))) == {1, 2, 3, 4}

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        kit.wait_until(all_had_their_turn, "each version answers some")
        kit.wait_until(lambda: len(kit.stream(client)) >= len(job_ids), "all are answered")
    finally:
        stop.set()
        swapper.join()
    line.end()
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")


# canary ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs have the same ids in each run, and so the canary's share consists of the same jobs."""
    numbers = itertools.count(1)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=next(numbers)))


@pytest.mark.usefixtures("numbered")
def test_a_canary_answers_its_share_and_the_other_sees_the_same_images(settings: Settings, client: redis.Redis) -> None:
    old, new = kit.model(version=3), kit.model(version=4)
    line = Line(settings, Serving(old, active_canary(new)))
    results = line.sort(client, *TONES * 50)
    taken = {result.job_id for result in results if result.model and result.model.version == 4}
    assert len(taken) == pytest.approx(100, abs=35)
    # At most three batches of images wait to be compared; others are skipped.
    kit.wait_until(lambda: not line.run._flow.observer.wants_time, "the comparisons are done")
    line.end()
    compared = {comparison.job_id for comparison in line.heard.comparisons}
    assert compared and compared <= taken
    assert len(compared) + skipped(line) == len(taken)
    assert {comparison.acting.model.version for comparison in line.heard.comparisons} == {4}
    assert all(comparison.agree for comparison in line.heard.comparisons)


def test_while_a_version_is_tried_one_thread_has_the_engines_to_itself(settings: Settings, client: redis.Redis) -> None:
    """Otherwise a comparison would slow down another thread's batch, although only spare time was promised to it."""
    inside, most = [0], [0]
    counting = threading.Lock()

    def counted(batch: kit.Pixels) -> None:
        with counting:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.002)
        with counting:
            inside[0] -= 1

    old, new = (kit.model(ToneEngine(counted), version=version) for version in (3, 4))
    old.engine.max_concurrency = new.engine.max_concurrency = 2
    line = Line(settings.model_copy(update={"max_batch": 2}), Serving(old, active_canary(new, shadow=True, share=1.0)))
    line.sort(client, *TONES * 10)
    line.end()
    assert most == [1]
    assert len(line.heard.comparisons) + skipped(line) == 40


def skipped(line: Line) -> float:
    return line.components.metrics.registry.get_sample_value("sortline_canary_skipped_total") or 0.0


@pytest.mark.usefixtures("numbered")
def test_a_shadow_sees_images_and_acts_on_none(settings: Settings, client: redis.Redis) -> None:
    """It has another size and swaps red and green, so that any answer of its own would be noticed."""

    class Swapped(ToneEngine):
        def predict(self, batch: kit.Pixels, **on_ready_for_next: Any) -> kit.NDArray[kit.np.float32]:
            return super().predict(kit.np.asarray(batch)[..., [1, 0, 2]])

    engine = Swapped(size_px=48)
    line = Line(
        settings, Serving(kit.model(version=3), active_canary(kit.model(engine, version=4, size_px=48), shadow=True))
    )
    results = [result for _ in range(40) for result in line.sort(client, 240)]
    its_share = {result.job_id for result in results if hash_fraction(result.job_id) < 0.5}
    assert 8 <= len(its_share) <= 32
    kit.wait_until(lambda: len(line.heard.comparisons) + skipped(line) == len(its_share), "the comparisons are done")
    line.end()
    assert versions(results) == {3: 40}
    assert {result.lane for result in results} == {"no-cap"}
    assert {comparison.job_id for comparison in line.heard.comparisons} == its_share
    for comparison in line.heard.comparisons:
        assert [label.label for label in comparison.acting.labels] == ["no cap"]
        assert [label.label for label in comparison.compared.labels] == ["disfigured"]
        assert not comparison.agree
    assert sum(engine.sizes) == len(line.heard.comparisons)


def test_a_shadow_uses_its_own_region_for_the_jobs_camera(settings: Settings, client: redis.Redis) -> None:
    """The image is decoded again after the job has gone on; the job's camera must still be known then."""
    shadow = kit.model(version=4)
    regions = {"c1": Region(0.5, 0, 1, 1), "*": Region(0, 0, 0.5, 1)}
    seen = shadow.manifest.model_copy(update={"regions": regions})
    tried = active_canary(replace(shadow, decoder=decoder_of(seen, settings)), share=1.0, shadow=True)
    line = Line(settings, Serving(kit.model(version=3), tried))
    kit.submit(settings, frame(kit.halves()))
    kit.wait_until(lambda: line.heard.comparisons, "it is compared")
    line.end()
    (comparison,) = line.heard.comparisons
    assert [label.label for label in comparison.compared.labels] == ["disfigured"]  # the right half, all green


@pytest.mark.parametrize("size_px", [32, 48])
def test_no_job_fails_because_of_a_canary(settings: Settings, client: redis.Redis, size_px: int) -> None:
    """Its engine fails on every batch: the other model answers, though the images were decoded for the canary."""
    broken = kit.model(ToneEngine(kit.always_fails, size_px=size_px), version=4, size_px=size_px)
    line = Line(settings, Serving(kit.model(version=3), active_canary(broken, share=1.0)))
    results = line.sort(client, *TONES * 5)
    line.end()
    assert versions(results) == {3: 20}
    assert {result.outcome.value for result in results} == {"sorted"}
    assert {result.attempt for result in results} == {1}
    assert {result.frame_id: result.lane for result in results} == {0: "good", 80: "good", 160: "no-cap", 240: "no-cap"}
    failed_trial, error = line.heard.failures[0]
    assert failed_trial.model is broken
    assert "out of order" in str(error)


def test_a_costly_image_falls_back_on_the_stable_model_too(settings: Settings, client: redis.Redis) -> None:
    broken = kit.model(ToneEngine(kit.always_fails), version=4)
    line = Line(settings, Serving(kit.model(version=3), active_canary(broken, share=1.0)))
    costly = picture(240, size_px=2000)
    assert is_costly(costly)
    kit.submit(settings, frame(costly))
    kit.wait_until(lambda: kit.stream(client), "it is answered")
    line.end()
    (result,) = kit.stream(client)
    assert (result.outcome.value, result.lane, versions([result])) == ("sorted", "no-cap", {3: 1})
    assert line.heard.failures[0][0].model is broken


@pytest.mark.parametrize("is_costly_for", [3, 4])
def test_whether_an_image_is_costly_depends_on_the_model_that_answers_it(
    settings: Settings, client: redis.Redis, is_costly_for: int
) -> None:
    """Each model may have its own regions. It decides which thread decodes the image."""
    decoded_on: set[str] = set()

    class Noting:
        def __init__(self, model: Model) -> None:
            self._decoder, self._version = model.decoder, model.version

        def __call__(self, data: bytes, camera: str) -> kit.Pixels:
            return self._decoder(data, camera)

        def is_costly(self, data: bytes, camera: str) -> bool:
            return self._version == is_costly_for

        def decode_into(self, data: bytes, camera: str, out: kit.Pixels) -> None:
            if self._version == 4:
                decoded_on.add(threading.current_thread().name.removesuffix("-1"))
            self._decoder.decode_into(data, camera, out)

    stable, tried = [replace(model, decoder=Noting(model)) for model in (kit.model(version=3), kit.model(version=4))]
    line = Line(settings, Serving(stable, active_canary(tried, share=1.0)))
    assert versions(line.sort(client, *TONES)) == {4: 4}
    line.end()
    assert decoded_on == {"decode-costly" if is_costly_for == 4 else "decode"}


def test_an_image_that_no_engine_can_run_is_not_the_canarys_fault(settings: Settings, client: redis.Redis) -> None:
    once = settings.model_copy(update={"max_attempts": 1})
    models = [kit.model(ToneEngine(kit.fails_on_red), version=version) for version in (3, 4)]
    line = Line(once, Serving(models[0], active_canary(models[1], share=1.0)))
    results = line.sort(client, 255, 0)
    line.end()
    assert {result.frame_id: result.outcome.value for result in results} == {255: "failed", 0: "sorted"}
    assert line.heard.failures == []


def test_comparing_never_holds_up_a_batch(settings: Settings, client: redis.Redis) -> None:
    """The shadow is held in its engine. The image is nevertheless sorted and finished: nothing waits for the shadow."""
    gate = Gate()
    line = Line(
        settings,
        Serving(kit.model(version=3), active_canary(kit.model(ToneEngine(gate), version=4), shadow=True, share=1.0)),
    )
    (result,) = line.sort(client, 0)
    assert result.outcome == "sorted"
    assert gate.entered.wait(kit.PATIENCE_S)
    assert line.heard.comparisons == []
    gate.opened.set()
    kit.wait_until(lambda: line.heard.comparisons, "it is compared after all")
    line.end()


def test_nothing_is_compared_while_deadlines_are_near(settings: Settings, client: redis.Redis) -> None:
    shadow = kit.model(version=4)
    shadow.cost.observe(1, 3600.0)  # it is believed to be slow
    line = Line(settings, Serving(kit.model(version=3), active_canary(shadow, shadow=True, share=1.0)))
    results = line.sort(client, *TONES * 30, deadline_ms=3_600_000)
    line.end()
    assert {result.outcome.value for result in results} == {"sorted"}
    assert line.heard.comparisons == []
    assert skipped(line) == 120
