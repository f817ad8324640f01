"""By how much exports may differ from the trained model, and which images become golden."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from model_store.bundle.int8_gate import default_cpu_engine, int8_refusal_reason
from model_store.bundle.policy import Mode, Policy
from model_store.engines.golden_check import FLOAT_TOLERANCE, INT8_TOLERANCE
from model_store.export.parity import (
    GOLDEN_IMAGES,
    ExportPredictions,
    ViewPredictions,
    check_parity,
    choose_golden,
    measure_parity,
)
from shared.arrays import Floats
from shared.errors import BadBundle
from shared.images.arrays import Pixels

CLASSES = ("good", "no cap", "cracked")
POLICY = Policy.default(CLASSES, "multi")
checked = functools.partial(check_parity, classes=CLASSES, mode="multi", policy=POLICY)
parity_of = functools.partial(measure_parity, classes=CLASSES, mode="multi", policy=POLICY)


def rows(*defects: tuple[float, float], repeat: int = 1) -> Floats:
    """Probabilities of a `multi` model: `good` is the product of the probabilities that a defect is absent."""
    given = [[(1 - cap) * (1 - crack), cap, crack] for cap, crack in defects]
    return np.array(given * repeat, np.float32)


def answers(fp32: Floats, int8: Floats) -> ExportPredictions:
    return ExportPredictions(trained=fp32, saved_model=fp32, fp32=fp32, int8=int8)


def test_the_metrics_compare_int8_with_fp32() -> None:
    fp32 = rows((0.1, 0.0), (0.9, 0.0), (0.45, 0.0), (0.3, 0.0), (0.9, 0.95))
    int8 = rows((0.1, 0.0), (0.2, 0.0), (0.65, 0.0), (0.55, 0.0), (0.95, 0.9))
    parity = parity_of(answers(fp32, int8))
    assert parity["images"] == 5
    assert parity["int8_max_difference"] == pytest.approx(0.7)
    # The last image has the same labels, but in another order of probability.
    assert parity["int8_labels_agreement"] == pytest.approx(2 / 5)
    assert parity["int8_class_agreement"] == pytest.approx(1 / 5)
    # Fp32 is uncertain about the third image, and int8 about the fourth.
    assert parity["int8_sure_disagreement"] == pytest.approx(1 / 5)
    assert "int8_macro_f1" not in parity


def test_with_true_labels_both_are_scored() -> None:
    fp32, int8 = rows((0.1, 0.0), (0.9, 0.0)), rows((0.1, 0.0), (0.2, 0.0))
    labels = [("good",), ("no cap",)]
    parity = parity_of(answers(fp32, int8), labels=labels)
    assert parity["fp32_macro_f1"] == 1
    assert parity["int8_macro_f1"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-6)
    known = np.array([[True, True, True], [False, False, True]])
    guarded = parity_of(answers(fp32, int8), labels=[("good",), ()], label_mask=known)
    assert guarded["int8_macro_f1"] == 1


@pytest.mark.parametrize(("name", "off"), [("saved_model", 2e-5), ("fp32", 0.02)])
def test_a_float_export_that_differs_is_not_published(name: str, off: float) -> None:
    trained = rows((0.1, 0.05), (0.9, 0.05))
    given = answers(trained, trained)._replace(**{name: trained + np.float32(off)})
    with pytest.raises(BadBundle, match=f"the exported {name} differ by .* nothing is published"):
        checked(given)


@pytest.mark.parametrize("name", ["saved_model", "fp32", "int8"])
def test_an_export_that_answers_nan_is_not_published(name: str) -> None:
    trained = rows((0.1, 0.0), (0.9, 0.0))
    broken = trained.copy()
    broken[1, 1] = np.nan
    with pytest.raises(BadBundle, match=f"the exported {name} differ by nan "):
        parity_of(answers(trained, trained)._replace(**{name: broken}))


def shifted(probabilities: Floats, by: float) -> Floats:
    """The probabilities after `by` is added to each logit."""
    return np.asarray(1 / (1 + (1 / probabilities - 1) * np.exp(-by)), np.float32)


def test_rounding_is_judged_relative_to_the_largest_logit() -> None:
    """If the largest logit is 7, the logits of an unsure image may differ by 0.03."""
    sure, unsure = rows((0.001, 0.999)), rows((0.42, 0.3))
    trained = np.concatenate([sure, unsure])
    fp32 = np.concatenate([sure, shifted(unsure, 0.02)])
    assert 0.004 < np.abs(fp32 - trained).max() < 0.006
    (note,) = checked(answers(trained, trained)._replace(fp32=fp32))
    assert "LiteRT fp32 differ by up to 0.0049: this is rounding" in note
    with pytest.raises(BadBundle, match=r"fp32 differ by 0.004\d+ from .* \(\d.\d% of the largest logit"):
        checked(answers(unsure, unsure)._replace(fp32=shifted(unsure, 0.02)))
    assert checked(answers(trained, trained)) == ()


def test_a_difference_that_changes_a_sure_decision_is_no_rounding() -> None:
    policy = POLICY.model_copy(update={"uncertain_margin": 0.0})
    trained = rows((0.001, 0.999), (0.498, 0.001))
    fp32 = trained.copy()
    fp32[1] = shifted(trained[1], 0.02)
    given = answers(trained, trained)._replace(fp32=fp32)
    assert checked(given)  # near the threshold, both send the image to a person
    with pytest.raises(BadBundle, match="which changes the labels of 1 images"):
        check_parity(given, classes=CLASSES, mode="multi", policy=policy)


def test_a_sure_answer_that_becomes_an_unsure_other_one_is_no_rounding() -> None:
    policy = POLICY.model_copy(update={"uncertain_margin": 0.001})
    trained = rows((0.001, 0.999), (0.498, 0.001))
    fp32 = trained.copy()
    fp32[1] = shifted(trained[1], 0.0095)
    assert 0.5 < fp32[1, 1] < 0.501
    with pytest.raises(BadBundle, match="which changes the labels of 1 images"):
        check_parity(answers(trained, trained)._replace(fp32=fp32), classes=CLASSES, mode="multi", policy=policy)


def test_an_export_that_differs_on_every_image_is_not_published() -> None:
    """Workers replay golden images, and allow FLOAT_TOLERANCE: with none to replay they would refuse the model."""
    trained = rows((0.001, 0.4), (0.001, 0.3))
    fp32 = shifted(trained, 0.02)
    with pytest.raises(BadBundle, match=r"fp32 differ by 0.004\d+ from .* on every image by more than 0.001"):
        checked(answers(trained, trained)._replace(fp32=fp32))
    fp32[1] = trained[1]
    assert checked(answers(trained, trained)._replace(fp32=fp32))


def test_golden_images_are_those_on_which_litert_and_tensorflow_agree() -> None:
    trained = rows((0.1, 0.1), (0.9, 0.1), (0.1, 0.9))
    fp32 = trained.copy()
    fp32[1] += np.float32(2 * FLOAT_TOLERANCE)
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    given = answers(trained, trained)._replace(fp32=fp32)
    golden = choose_golden(images, given, classes=CLASSES, mode="multi", policy=POLICY)
    assert golden.images[:, 0, 0, 0].tolist() == [0, 2]


def test_views_count_as_images_of_the_same_labels() -> None:
    images = rows((0.1, 0.0), (0.9, 0.0))
    views = ViewPredictions(
        fp32=rows((0.1, 0.0), (0.9, 0.0), (0.1, 0.0)), int8=rows((0.1, 0.0), (0.9, 0.0), (0.9, 0.0))
    )
    labels = [("good",), ("no cap",)]
    parity = parity_of(answers(images, images), views=views, labels=labels)
    assert (parity["images"], parity["views"]) == (2, 3)
    assert parity["int8_labels_agreement"] == pytest.approx(4 / 5)
    assert parity["fp32_macro_f1"] == 1
    assert parity["int8_macro_f1"] < 1
    reason = int8_refusal_reason(parity)
    assert reason is not None
    assert "80.00% of the 5 compared images" in reason
    none = ViewPredictions(fp32=rows()[:0].reshape(0, 3), int8=rows()[:0].reshape(0, 3))
    assert "views" not in parity_of(answers(images, images), views=none)


def test_views_without_a_number_for_an_answer_are_refused() -> None:
    images = rows((0.1, 0.0))
    with pytest.raises(BadBundle, match="the exported int8 differ by nan "):
        parity_of(answers(images, images), views=ViewPredictions(fp32=images, int8=images * np.float32(np.nan)))


def test_int8_passes_with_one_different_label_in_a_hundred_and_not_with_two() -> None:
    fp32 = rows((0.1, 0.0), repeat=100)
    int8 = fp32.copy()
    int8[0] = rows((0.9, 0.0))[0]
    assert default_cpu_engine(parity_of(answers(fp32, int8))) == "litert"
    int8[1] = int8[0]
    assert default_cpu_engine(parity_of(answers(fp32, int8))) == "litert-fp32"


def golden_rows(
    given: Floats, policy: Policy = POLICY, classes: tuple[str, ...] = CLASSES, mode: Mode = "multi"
) -> Pixels:
    images = np.arange(len(given), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return choose_golden(images, answers(given, given), classes=classes, mode=mode, policy=policy).images[:, 0, 0, 0]


def test_golden_images_keep_away_from_the_thresholds() -> None:
    near = 0.5 - INT8_TOLERANCE + 0.01
    given = rows((0.1, 0.1), (near, 0.1), (0.9, near), (0.9, 0.1))
    assert golden_rows(given).tolist() == [0, 3]


def test_with_a_low_threshold_bottles_without_the_defect_can_be_golden() -> None:
    policy = POLICY.model_copy(update={"thresholds": {"no cap": 0.1, "cracked": 0.5}})
    assert golden_rows(rows((0.01, 0.1), (0.06, 0.1), (0.9, 0.1)), policy).tolist() == [0, 2]


def test_in_single_two_probabilities_can_move_towards_each_other() -> None:
    given = np.array([[0.54, 0.45, 0.01], [0.56, 0.43, 0.01], [0.9, 0.1, 0.0]], np.float32)
    assert golden_rows(given, Policy.default(CLASSES, "single"), mode="single").tolist() == [1, 2]


def test_golden_images_cover_every_label_set() -> None:
    """The images of class folders come class by class, so the first ones alone would be of one class."""
    given = np.concatenate(
        [rows(each, repeat=40) for each in ((0.0, 0.0), (0.9, 0.0), (0.0, 0.9))] + [rows((0.9, 0.9))]
    )
    chosen = golden_rows(given)
    assert len(chosen) == GOLDEN_IMAGES
    assert (np.diff(chosen.astype(int)) > 0).all()
    assert np.bincount(chosen // 40).tolist() == [5, 5, 5, 1]


def test_a_model_without_clear_labels_gives_its_clearest_image() -> None:
    assert golden_rows(rows((0.5, 0.5), (0.52, 0.47), (0.51, 0.5))).tolist() == [1]


def test_golden_answers_are_those_of_int8_with_its_rechecks() -> None:
    """Close images are golden only if fp32 would surely recheck them on another CPU too, and if it hardly matters."""
    fp32 = rows((0.1, 0.1), (0.51, 0.1), (0.9, 0.1), (0.1, 0.43), (0.1, 0.42), (0.9, 0.9), (0.1, 0.35))
    int8 = rows((0.1, 0.1), (0.49, 0.1), (0.9, 0.1), (0.1, 0.46), (0.1, 0.42), (0.8, 0.8), (0.1, 0.35))
    images = np.arange(len(int8), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    chosen = functools.partial(choose_golden, images, classes=CLASSES, mode="multi", policy=POLICY)
    golden = chosen(answers(fp32, int8), recheck_margin=0.3)
    # Near the margin: 3 (within), 4 (just outside). Too different: 5. 0.35 is more than 0.6 logits from 0.5.
    assert golden.images[:, 0, 0, 0].tolist() == [0, 1, 2, 6]
    np.testing.assert_array_equal(golden.int8, [int8[0], fp32[1], int8[2], int8[6]])
    np.testing.assert_array_equal(golden.float32, fp32[[0, 1, 2, 6]])
    assert chosen(answers(fp32, int8)).images[:, 0, 0, 0].tolist() == [0, 2, 4, 5, 6]


def test_a_model_without_better_images_takes_golden_images_near_the_margin() -> None:
    given = rows((0.1, 0.42), (0.42, 0.1))
    images = np.arange(2, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    golden = choose_golden(
        images, answers(given, given), classes=CLASSES, mode="multi", policy=POLICY, recheck_margin=0.3
    )
    assert len(golden.images) == 2
