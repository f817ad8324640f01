"""How the margin of rechecks is chosen, and what is measured with it."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pytest

from model_store.bundle.int8_gate import INT8_MAX_RECHECKED, default_cpu_engine, int8_refusal_reason
from model_store.bundle.manifest import MAX_RECHECK_MARGIN
from model_store.bundle.policy import Mode, Policy
from model_store.bundle.recorded_figures import check_parity
from model_store.engines.recheck import RecheckRule
from model_store.export.parity import ExportPredictions, ViewPredictions
from model_store.export.recheck_margin import MARGIN_IN_NOISES, measure_exports, recheck_margin
from shared.arrays import Doubles, Floats
from shared.errors import BadBundle

CLASSES = ("good", "no cap", "cracked")
POLICY = Policy.default(CLASSES, "multi").model_copy(update={"thresholds": {"no cap": 0.5, "cracked": 0.2}})
measured = functools.partial(measure_exports, classes=CLASSES, mode="multi", policy=POLICY)


def multi(logits: Doubles) -> Floats:
    """Probabilities from the logits of the two defects, [N, 2]."""
    defects = 1 / (1 + np.exp(-logits))
    return np.concatenate([(1 - defects).prod(axis=1, keepdims=True), defects], axis=1).astype(np.float32)


def softmax(logits: Doubles) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


class Noisy(NamedTuple):
    """What fp32 and an int8 model with noisy logits answer."""

    fp32: Floats
    int8: Floats


def noisy(mode: Mode, *, spread: float, noise: float, images: int = 2000, seed: int = 1) -> Noisy:
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (images, 2 if mode == "multi" else 3))
    answer = multi if mode == "multi" else softmax
    return Noisy(answer(logits), answer(logits + random.normal(0, noise, logits.shape)))


def exports(given: Noisy) -> ExportPredictions:
    return ExportPredictions(trained=given.fp32, saved_model=given.fp32, fp32=given.fp32, int8=given.int8)


def margin_of(given: Noisy, mode: Mode = "multi") -> float:
    policy = POLICY if mode == "multi" else Policy.default(CLASSES, mode)
    return recheck_margin(ViewPredictions(*given), classes=CLASSES, mode=mode, policy=policy)


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_the_margin_is_a_multiple_of_the_noise_of_the_decisions(noise: float) -> None:
    assert margin_of(noisy("multi", spread=4, noise=noise)) == pytest.approx(MARGIN_IN_NOISES * noise, rel=0.1)
    # The difference of two logits has the noise of both.
    single = margin_of(noisy("single", spread=4, noise=noise), "single")
    assert single == pytest.approx(MARGIN_IN_NOISES * noise * np.sqrt(2), rel=0.15)


def test_differences_far_from_every_decision_do_not_count() -> None:
    given = noisy("multi", spread=4, noise=0.1)
    far = np.abs(np.log(given.fp32[:, 1] / (1 - given.fp32[:, 1]))) > 5
    assert far.any()
    wrong = given.int8.copy()
    wrong[far, 1] = given.fp32[far, 1] ** 2
    assert margin_of(given._replace(int8=wrong)) == margin_of(given)


def test_the_most_probable_of_many_classes_count() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(0, 4, (500, 1000))
    given = Noisy(softmax(logits), softmax(logits + random.normal(0, 0.1, logits.shape)))
    names = tuple(map(str, range(1000)))
    margin = recheck_margin(
        ViewPredictions(*given), classes=names, mode="single", policy=Policy.default(names, "single")
    )
    assert margin == pytest.approx(MARGIN_IN_NOISES * 0.1 * np.sqrt(2), rel=0.2)


def test_saturated_answers_and_odd_thresholds_give_a_finite_margin() -> None:
    answers = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]], np.float32)
    assert margin_of(Noisy(answers, answers)) == 0
    assert 0 < margin_of(Noisy(answers, answers[::-1])) <= MAX_RECHECK_MARGIN
    odd = POLICY.model_copy(update={"thresholds": {"no cap": 0.0, "cracked": 1.0}})
    assert recheck_margin(ViewPredictions(answers, answers), classes=CLASSES, mode="multi", policy=odd) == 0


def test_int8_that_passes_alone_is_not_rechecked() -> None:
    found = measured(exports(noisy("multi", spread=4, noise=0.001)))
    assert found.recheck_margin == 0
    assert not {"int8_rechecked", "int8_alone_labels_agreement"} & found.parity.keys()
    assert default_cpu_engine(found.parity) == "litert"


@pytest.mark.parametrize("mode", ["multi", "single"])
@pytest.mark.parametrize("noise", [0.1, 0.2])
def test_rechecks_make_int8_pass_on_these_images_and_on_others(mode: Mode, noise: float) -> None:
    policy = POLICY if mode == "multi" else Policy.default(CLASSES, mode)
    given = noisy(mode, spread=3, noise=noise, images=400)
    found = measure_exports(exports(given), classes=CLASSES, mode=mode, policy=policy)
    assert found.parity["int8_alone_labels_agreement"] < 0.99 <= found.parity["int8_labels_agreement"]
    assert 0 < found.parity["int8_rechecked"] < INT8_MAX_RECHECKED
    assert default_cpu_engine(found.parity) == "litert"
    check_parity(found.parity)
    rule = RecheckRule(CLASSES, mode=mode, policy=policy, margin=found.recheck_margin)
    others = noisy(mode, spread=3, noise=noise, seed=99)
    again = measure_exports(
        exports(others._replace(int8=rule.answers(int8=others.int8, fp32=others.fp32))),
        classes=CLASSES,
        mode=mode,
        policy=policy,
    )
    assert again.recheck_margin == 0
    assert again.parity["int8_labels_agreement"] >= 0.99


def test_what_is_recorded_is_what_the_engine_answers() -> None:
    """Every figure of int8 is the same as if those answers had come from one model."""
    given, views = noisy("multi", spread=3, noise=0.2, images=60), noisy("multi", spread=3, noise=0.2, seed=5)
    labels = [("good",)] * 20 + [("no cap",)] * 20 + [("no cap", "cracked")] * 20
    found = measured(exports(given), views=ViewPredictions(*views), labels=labels)
    rule = RecheckRule(CLASSES, mode="multi", policy=POLICY, margin=found.recheck_margin)
    answered = (each._replace(int8=rule.answers(int8=each.int8, fp32=each.fp32)) for each in (given, views))
    of_images, of_views = answered
    expected = measured(exports(of_images), views=ViewPredictions(*of_views), labels=labels)
    assert expected.recheck_margin == 0
    shares = {name: found.parity[name] for name in ("int8_rechecked", "int8_alone_labels_agreement")}
    assert found.parity == expected.parity | shares
    rows = rule.rows(np.concatenate([given.int8, views.int8]))
    assert found.parity["int8_rechecked"] == rows.mean()
    assert (found.parity["images"], found.parity["views"]) == (60, 2000)


def test_int8_that_needs_too_many_rechecks_is_refused() -> None:
    found = measured(exports(noisy("multi", spread=0.5, noise=0.2)))
    assert found.parity["int8_labels_agreement"] >= 0.99
    assert found.parity["int8_rechecked"] > INT8_MAX_RECHECKED
    reason = int8_refusal_reason(found.parity)
    assert reason is not None
    assert "fp32 would recheck" in reason
    assert default_cpu_engine(found.parity) == "litert-fp32"


def test_a_broken_int8_model_is_refused() -> None:
    given = noisy("multi", spread=3, noise=0.1)
    found = measured(exports(given._replace(int8=given.fp32[::-1])))
    assert found.recheck_margin <= MAX_RECHECK_MARGIN
    assert default_cpu_engine(found.parity) == "litert-fp32"


def test_answers_that_are_no_numbers_are_refused() -> None:
    given = noisy("multi", spread=3, noise=0.1, images=10)
    given.int8[3, 1] = np.nan
    with pytest.raises(BadBundle, match="the exported int8 differ by nan "):
        measured(exports(given))
