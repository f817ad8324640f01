"""When an image runs on the second model too, and how the two answers are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model_store.registry.canary import Canary
from shared.errors import EngineFailed
from tests.worker import kit, step_inputs
from tests.worker.kit import Heard, ToneEngine
from worker.canary.comparer import (
    HEADROOM_WINDOW_S,
    MAX_KEPT_BYTES,
    SLICE_S,
    Comparer,
    ComparisonInput,
    DeadlineHeadroom,
)
from worker.models.model import Model
from worker.models.routing import ActiveCanary, ActiveModels, Route, Serving
from worker.observe.metrics import Metrics
from worker.steps.decode import decode
from worker.steps.infer import infer
from worker.steps.work import Decoded, Prediction

FOREVER = float("inf")


class Bench:
    """A comparer with two models: 3 in service and the canary 4, both ToneEngines unless given."""

    def __init__(self, *, shadow: bool = True, canary: Model | None = None, max_waiting: int = 100) -> None:
        self.stable, self.metrics, self.heard = kit.model(version=3), Metrics(), Heard()
        self.canary = ActiveCanary(Canary(version=4, share=1.0, shadow=shadow), canary or kit.model(version=4))
        self.active_models = ActiveModels(Serving(self.stable, self.canary), metrics=self.metrics)
        self.comparer = Comparer(self.active_models, sink=self.heard, max_waiting=max_waiting, metrics=self.metrics)
        self.shadow = shadow
        for model in (self.stable, self.canary.model):
            model.cost.observe(1, 0.002)

    def offer(self, *tones: int, decoded: bool = True) -> None:
        """Offer images that one model has answered; with `decoded`, they are decoded for the other model too."""
        by, other = (self.stable, self.canary.model) if self.shadow else (self.canary.model, self.stable)
        items = [
            step_inputs.decoded(
                f"j{tone}",
                tone=tone,
                by=by,
                note=ComparisonInput(self.canary, other, pixels=step_inputs.shade(tone) if decoded else None),
            )
            for tone in tones
        ]
        outputs = infer(np.stack([item.slot.pixels for item in items]), by.engine)
        self.comparer.after_batch(list(map(Prediction, items, outputs)))

    def run(self, *, spare_s: float = FOREVER) -> None:
        """Run slices until no comparison waits."""
        while self.comparer.wants_time:
            self.comparer.between_batches(lambda: spare_s)

    @property
    def skipped(self) -> float:
        return self.metrics.registry.get_sample_value("sortline_canary_skipped_total") or 0.0


class Darker(ToneEngine):
    """Sees half of the red."""

    def predict(self, batch: kit.Pixels, **on_ready_for_next: Any) -> kit.NDArray[kit.np.float32]:
        return super().predict(kit.np.asarray(batch) // 2)


# what is reported ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shadow", [True, False])
def test_both_answers_are_reported_and_whether_they_agree(shadow: bool) -> None:
    bench = Bench(shadow=shadow, canary=kit.model(Darker(), version=4))
    bench.offer(0, 200)
    bench.run()
    same, other = bench.heard.comparisons
    assert (same.agree, other.agree) == (True, False)
    by_version = {answer.model.version: answer for answer in (other.acting, other.compared)}
    assert other.acting.model.version == (3 if shadow else 4)
    assert ([label.label for label in by_version[3].labels], by_version[3].lane) == (["no cap"], "no-cap")
    assert ([label.label for label in by_version[4].labels], by_version[4].lane) == (["good"], "good")


def test_another_lane_is_a_disagreement_too() -> None:
    canary = kit.model(version=4)
    policy = canary.manifest.policy.model_copy(update={"lanes": {**canary.manifest.policy.lanes, "good": "crate-2"}})
    canary.decider._manifest = canary.manifest.model_copy(update={"policy": policy})
    bench = Bench(canary=canary)
    bench.offer(0)
    bench.run()
    (comparison,) = bench.heard.comparisons
    assert comparison.acting.labels == comparison.compared.labels
    assert (comparison.acting.lane, comparison.compared.lane, comparison.agree) == ("good", "crate-2", False)


def test_a_shadow_that_fails_is_reported_and_not_counted_as_compared() -> None:
    bench = Bench(canary=kit.model(ToneEngine(kit.fails_on_red), version=4))
    bench.offer(0, 255, 10)
    bench.run()
    assert [comparison.job_id for comparison in bench.heard.comparisons] == ["j0", "j10"]
    ((canary, error),) = bench.heard.failures
    assert canary is bench.canary
    assert isinstance(error, EngineFailed)
    assert bench.skipped == 1


def test_the_model_in_service_failing_is_not_the_canarys_fault() -> None:
    bench = Bench(shadow=False)
    bench.stable.engine._before = kit.always_fails  # type: ignore[attr-defined]
    bench.offer(0)
    bench.run()
    assert (bench.heard.comparisons, bench.heard.failures, bench.skipped) == ([], [], 1)


def test_items_that_need_no_comparison_are_skipped() -> None:
    bench = Bench()
    failed = step_inputs.decoded(note=ComparisonInput(bench.canary, bench.canary.model, step_inputs.shade(0)))
    bench.comparer.after_batch(
        [Prediction(step_inputs.decoded(), [1.0, 0.0, 0.0]), Prediction(failed, EngineFailed("no"))]
    )
    assert not bench.comparer.wants_time
    assert bench.skipped == 0


# what the other model sees ──────────────────────────────────────────────────────────────────────────


def decoded_by(comparer: Comparer, route: Route, data: bytes, **job: Any) -> Decoded:
    """An item as the decode step hands it on."""
    return comparer.after_decode(decode(step_inputs.admitted(**job), data, route.model), data, route)


def test_an_image_that_only_one_model_sees_has_no_note() -> None:
    bench = Bench()
    assert decoded_by(bench.comparer, Route(bench.stable), kit.picture(10)).note is None


@pytest.mark.parametrize("shadow", [True, False])
def test_models_that_decode_alike_see_the_same_pixels_even_if_the_slot_is_reused(shadow: bool) -> None:
    seen: list[Any] = []
    bench = Bench(shadow=shadow, canary=kit.model(version=4))
    other = bench.canary.model if shadow else bench.stable
    other.engine._before = lambda batch: seen.append(batch.copy())  # type: ignore[attr-defined]
    item = decoded_by(bench.comparer, bench.active_models.current.route(step_inputs.image_job()), kit.picture(10, 20))
    bench.comparer.after_batch([Prediction(item, [1.0, 0.0, 0.0])])
    item.slot.pixels[:] = 0
    bench.run()
    assert (seen[0] == (10, 20, 0)).all()


def test_an_image_for_a_shadow_of_another_size_is_decoded_again_in_its_slice() -> None:
    seen: list[Any] = []
    bench = Bench(
        canary=kit.model(ToneEngine(lambda batch: seen.append(batch.copy()), size_px=48), version=4, size_px=48)
    )
    item = decoded_by(bench.comparer, Route(bench.stable, bench.canary.model, bench.canary), kit.picture(10, 20))
    assert isinstance(item.note, ComparisonInput) and item.note.pixels is None
    bench.comparer.after_batch([Prediction(item, [1.0, 0.0, 0.0])])
    bench.run()
    assert seen[0].shape == (1, 48, 48, 3) and (seen[0] == (10, 20, 0)).all()
    assert len(bench.heard.comparisons) == 1


@pytest.mark.parametrize("shadow", [True, False])
def test_a_second_decoding_that_fails_only_skips_the_comparison(shadow: bool) -> None:
    bench = Bench(shadow=shadow, canary=kit.model(version=4, size_px=48))
    route = bench.active_models.current.route(step_inputs.image_job())
    item = decode(step_inputs.admitted(), kit.picture(10), route.model)
    item = bench.comparer.after_decode(item, kit.broken_picture(), route)
    bench.comparer.after_batch([Prediction(item, [1.0, 0.0, 0.0])])
    bench.run()
    assert (bench.heard.comparisons, bench.skipped) == ([], 1)


def test_a_large_file_is_not_kept_for_a_comparison() -> None:
    bench = Bench(canary=kit.model(version=4, size_px=48))
    data = kit.picture(10) + bytes(MAX_KEPT_BYTES)
    item = bench.comparer.after_decode(
        step_inputs.decoded(by=bench.stable), data, Route(bench.stable, bench.canary.model, bench.canary)
    )
    bench.comparer.after_batch([Prediction(item, [1.0, 0.0, 0.0])])
    assert bench.skipped == 1


# a canary that fails ────────────────────────────────────────────────────────────────────────────────


def test_an_image_that_fails_in_the_canary_is_answered_by_its_stable_model() -> None:
    """The batch may hold images routed before and after the canary's promotion, with different stable models."""
    bench = Bench(shadow=False)
    canary, old, newer = bench.canary.model, kit.model(version=2), kit.model(version=5)
    items = [
        step_inputs.decoded("promoted", by=canary),
        step_inputs.decoded("a", by=canary, note=ComparisonInput(bench.canary, old, pixels=step_inputs.shade(0))),
        step_inputs.decoded("b", by=canary, note=ComparisonInput(bench.canary, newer, pixels=step_inputs.shade(255))),
        step_inputs.decoded("fine", by=canary, note=ComparisonInput(bench.canary, newer, pixels=step_inputs.shade(0))),
    ]
    failed = EngineFailed("out of order")
    outputs: list[list[float] | EngineFailed] = [failed, failed, failed, [1.0, 0.0, 0.0]]
    after = bench.comparer.after_failures(list(map(Prediction, items, outputs)))
    assert [each.item.model.version for each in after] == [4, 2, 5, 4]
    assert [each.item.admitted.job.job_id for each in after] == ["promoted", "a", "b", "fine"]
    assert [each.output for each in after] == [failed, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert bench.heard.failures == [(bench.canary, failed)]
    assert [each.item.note is None for each in after] == [True, True, True, False]


def test_an_image_that_no_engine_can_run_is_not_the_canarys_fault() -> None:
    bench = Bench(shadow=False)
    bench.stable.engine._before = kit.always_fails  # type: ignore[attr-defined]
    item = step_inputs.decoded(
        by=bench.canary.model, note=ComparisonInput(bench.canary, bench.stable, pixels=step_inputs.shade(0))
    )
    (after,) = bench.comparer.after_failures([Prediction(item, EngineFailed("no"))])
    assert isinstance(after.output, EngineFailed)
    assert bench.heard.failures == []


# when comparisons run ───────────────────────────────────────────────────────────────────────────────


def test_a_comparison_runs_only_if_the_spare_time_is_long_enough() -> None:
    bench = Bench()
    bench.offer(0)
    bench.comparer.between_batches(lambda: 0.002)
    assert bench.heard.comparisons == []
    bench.comparer.between_batches(lambda: 0.003)
    assert len(bench.heard.comparisons) == 1


def test_nothing_runs_while_results_are_nearly_late() -> None:
    bench = Bench()
    bench.offer(0)
    bench.comparer.headroom.observe(0.0039)
    assert not bench.comparer.wants_time
    bench.comparer.between_batches(lambda: FOREVER)
    assert bench.heard.comparisons == []


def test_a_slice_is_short() -> None:
    bench = Bench()
    engine = bench.canary.model.engine
    assert isinstance(engine, ToneEngine)
    for size in (2, 4, 8):
        bench.canary.model.cost.observe(size, 0.002 * size)
    bench.offer(*range(20))
    bench.comparer.between_batches(lambda: FOREVER)
    assert engine.sizes == [5], f"5 images take {SLICE_S} s at most, 6 would not"
    bench.comparer.between_batches(lambda: 0.005)
    assert engine.sizes == [5, 2]


def test_comparisons_without_room_or_pixels_are_skipped_and_counted() -> None:
    bench = Bench(canary=kit.model(version=4, size_px=48), max_waiting=2)
    bench.offer(1, decoded=False)
    assert bench.skipped == 1
    bench.offer(1, 2, 3, 4)
    assert bench.skipped == 3
    bench.comparer.skip_waiting()
    assert bench.skipped == 5
    assert not bench.comparer.wants_time


def test_images_of_a_canary_that_has_ended_are_dropped() -> None:
    bench = Bench()
    bench.offer(1, 2)
    bench.active_models.end_canary(bench.canary)
    bench.comparer.between_batches(lambda: FOREVER)
    assert not bench.comparer.wants_time
    assert (bench.heard.comparisons, bench.skipped) == ([], 0)


# headroom ───────────────────────────────────────────────────────────────────────────────────────────


def test_without_deadlines_there_is_headroom() -> None:
    assert DeadlineHeadroom().has(60.0)


def test_headroom_is_half_of_what_the_worst_result_had_left() -> None:
    headroom = DeadlineHeadroom()
    for margin_s in (0.5, 0.1, 0.3):
        headroom.observe(margin_s)
    assert headroom.has(0.049)
    assert not headroom.has(0.051)
    headroom.observe(-0.1)
    assert not headroom.has(0.0)


@pytest.mark.parametrize("observed_at", [0.0, 0.3 * HEADROOM_WINDOW_S, 0.49 * HEADROOM_WINDOW_S])
def test_a_bad_margin_is_remembered_for_a_while(observed_at: float) -> None:
    now = [100.0]
    headroom = DeadlineHeadroom(clock=lambda: now[0])
    now[0] += observed_at
    headroom.observe(0.001)
    for _ in range(5):
        now[0] += HEADROOM_WINDOW_S / 10
        headroom.observe(1.0)
        assert not headroom.has(0.010)
    for _ in range(11):
        now[0] += HEADROOM_WINDOW_S / 10
        headroom.observe(1.0)
    assert headroom.has(0.010)
    now[0] += 10 * HEADROOM_WINDOW_S
    assert headroom.has(100.0), "nothing has been observed for a long time"
