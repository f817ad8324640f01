"""Parity: whether the exported files give the trained model's outputs, on images that it was not trained on.

In: the trained module and a folder of exports. Out: the metrics of `manifest.parity`, whether the exports may be
published, and the golden images. The files are loaded from disk by the engines that serve them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from model_store.bundle.file_reading import open_bundle_file
from model_store.bundle.golden import Golden
from model_store.bundle.manifest import FP32_FILE, INT8_FILE, SAVED_MODEL_DIR
from model_store.bundle.policy import DEFAULT_THRESHOLD, GOOD, Mode, Policy
from model_store.datasets.lazy_images import in_batches
from model_store.engines.golden_check import FLOAT_TOLERANCE, INT8_TOLERANCE
from model_store.engines.litert import LiteRTEngine
from model_store.engines.protocol import Engine
from model_store.engines.recheck import RecheckRule
from model_store.engines.tensorflow import TensorFlowEngine
from model_store.evaluation.metrics import ScoredPredictions, compute_metrics, score
from model_store.runtime.native_output import quiet_native
from shared.arrays import Bools, Doubles, Floats, Indices
from shared.cpu_cores import usable_cores
from shared.errors import BadBundle
from shared.images.arrays import Pixels

# Largest difference of an export that is loaded from disk. The SavedModel has the same graph, so a larger difference is
# refused. LiteRT folds the batch normalizations into the weights, which adds rounding (up to 9.7e-6 on the default
# backbone); its fp32 export may differ by FLOAT_TOLERANCE, and a difference above this bound is only reported.
RELOAD_TOLERANCE = 1e-5
# Rounding errors grow with the values that are rounded: a network that was trained from random weights has larger
# logits, and responds more to a crop that moves by a hundredth of a pixel (differences of up to 2.9e-3 were measured).
# So LiteRT may exceed FLOAT_TOLERANCE if its logits differ by at most this share of the largest logit (some 0.01 in
# probability) and no label changes that the model was sure of. A wrong export differs by much more.
_LOGIT_SHARE = 0.005
# Probabilities closer to 0 or 1 than this have no exact logits in float32, and such differences don't matter.
_MIN_PROBABILITY = 1e-4
GOLDEN_IMAGES = 16
# int8 is compared with fp32 on at least this many images, views included. Whether the labels are the same on 99 % can't
# be told from the five images that a dataset of 24 leaves: there, one label that rounding decides would be 20 %.
COMPARED_IMAGES = 400
_BATCH_SIZE = 16


class ExportPredictions(NamedTuple):
    """Probabilities of the same images, each float32 [N, C]; those of `int8` are without rechecks, if not said."""

    trained: Floats
    saved_model: Floats
    fp32: Floats
    int8: Floats


class ViewPredictions(NamedTuple):
    """The LiteRT models' probabilities of views of the N images, each float32 [M, C]; view i is of image i % N."""

    fp32: Floats
    int8: Floats


def predict_all(module: Any, folder: Path, images: Pixels, *, classes_count: int) -> ExportPredictions:
    """Run the trained module and each exported file on the images."""
    size_px = images.shape[1]
    with quiet_native():
        saved_model: Engine = TensorFlowEngine(
            folder / SAVED_MODEL_DIR,
            input_size_px=size_px,
            classes_count=classes_count,
            threads=usable_cores(),
            max_batch=_BATCH_SIZE,
        )
        engines = saved_model, *_litert_engines(folder, size_px=size_px, classes_count=classes_count)
        exported = [in_batches(engine.predict, images, size=_BATCH_SIZE) for engine in engines]
        trained = in_batches(lambda batch: module.serve(batch)["probabilities"], images, size=_BATCH_SIZE)
    return ExportPredictions(trained, *exported)


def predict_views(folder: Path, views: Pixels, *, classes_count: int) -> ViewPredictions:
    """Run the exported LiteRT files on views (`image_views.views_of`), of which there may be none."""
    if not len(views):
        none = np.empty((0, classes_count), np.float32)
        return ViewPredictions(none, none)
    with quiet_native():
        engines = _litert_engines(folder, size_px=views.shape[1], classes_count=classes_count)
        return ViewPredictions(*(in_batches(engine.predict, views, size=_BATCH_SIZE) for engine in engines))


def _litert_engines(folder: Path, *, size_px: int, classes_count: int) -> tuple[Engine, Engine]:
    """The engines of fp32 and int8."""

    def engine(file: str, name: Literal["litert", "litert-fp32"]) -> Engine:
        path = folder / file
        with open_bundle_file(path) as opened:
            content = opened.read()
        return LiteRTEngine(
            content,
            name=name,
            input_size_px=size_px,
            classes_count=classes_count,
            threads=usable_cores(),
            location=path,
        )

    return engine(FP32_FILE, "litert-fp32"), engine(INT8_FILE, "litert")


def measure_parity(
    predictions: ExportPredictions,
    *,
    classes: tuple[str, ...],
    mode: Mode,
    policy: Policy,
    views: ViewPredictions | None = None,
    labels: Sequence[tuple[str, ...]] | None = None,
    label_mask: Bools | None = None,
) -> dict[str, float]:
    """The metrics of `manifest.parity`.

    `images` counts the images, and `views` the views, if any. `…_max_difference` is the largest difference of any
    probability from the trained model's, on the images. The others compare int8 with fp32, on images and views:
    `int8_class_agreement` is the share of images with the same most probable class, `int8_labels_agreement`
    the share with the same decided labels, and `int8_sure_disagreement` the share with different labels although
    neither of the two is uncertain. `fp32_macro_f1` and `int8_macro_f1` are there if the true labels are given.

    Args:
        views: of the N images: they have the same labels.
        labels: the true labels of the N images.
        label_mask: bool [N, C], as for `evaluation.metrics.score`.

    Raises:
        BadBundle: an export's answers contain values that are not numbers.
    """
    _check_numbers(predictions, views)
    compared = with_views(predictions, views)
    rows = np.resize(np.arange(len(predictions.trained)), len(compared.fp32))  # view i is of image i % N
    # Without true labels only the decisions are compared; whether they are right is not used.
    truth = [labels[row] if labels is not None else () for row in rows.tolist()]
    known = None if label_mask is None else label_mask[rows]
    scored = partial(score, labels=truth, classes=classes, mode=mode, policy=policy, label_mask=known)
    fp32, int8 = map(scored, compared)
    metrics = _counts(predictions, views) | _differences(predictions) | _agreement(compared, fp32=fp32, int8=int8)
    if labels is not None:
        metrics["fp32_macro_f1"] = compute_metrics(fp32)["macro_f1"]
        metrics["int8_macro_f1"] = compute_metrics(int8)["macro_f1"]
    return metrics


def _counts(predictions: ExportPredictions, views: ViewPredictions | None) -> dict[str, float]:
    counts: dict[str, float] = {"images": len(predictions.trained)}
    if views is not None and len(views.fp32):
        counts["views"] = len(views.fp32)
    return counts


def _check_numbers(predictions: ExportPredictions, views: ViewPredictions | None) -> None:
    for name in ("saved_model", "fp32", "int8"):
        of_views = getattr(views, name, np.empty(0))
        if not (np.isfinite(getattr(predictions, name)).all() and np.isfinite(of_views).all()):
            raise _differs_error(name, float("nan"), "not a number")


def with_views(predictions: ExportPredictions, views: ViewPredictions | None) -> ViewPredictions:
    """The LiteRT models' probabilities of the images, then of the views if there are any."""
    of_images = ViewPredictions(predictions.fp32, predictions.int8)
    if views is None:
        return of_images
    return ViewPredictions(*(np.concatenate(pair) for pair in zip(of_images, views, strict=True)))


def _agreement(compared: ViewPredictions, *, fp32: ScoredPredictions, int8: ScoredPredictions) -> dict[str, float]:
    same_class = compared.int8.argmax(axis=1) == compared.fp32.argmax(axis=1)
    same_labels = (int8.decided == fp32.decided).all(axis=1)
    return {
        "int8_class_agreement": float(same_class.mean()),
        "int8_labels_agreement": float(same_labels.mean()),
        "int8_sure_disagreement": float((~same_labels & ~int8.uncertain & ~fp32.uncertain).mean()),
    }


def _differences(predictions: ExportPredictions) -> dict[str, float]:
    return {
        f"{name}_max_difference": float(np.abs(getattr(predictions, name) - predictions.trained).max())
        for name in ("saved_model", "fp32", "int8")
    }


def check_parity(
    predictions: ExportPredictions, *, classes: tuple[str, ...], mode: Mode, policy: Policy
) -> tuple[str, ...]:
    """Refuse float exports whose answers differ from the trained model's by more than rounding.

    Returns notes for the user.

    Raises:
        BadBundle: the exports must not be published.
    """
    off = _differences(predictions)
    if not off["saved_model_max_difference"] <= RELOAD_TOLERANCE:  # false for nan too
        raise _differs_error("saved_model", off["saved_model_max_difference"], f"allowed {RELOAD_TOLERANCE}")
    difference = off["fp32_max_difference"]
    if difference <= FLOAT_TOLERANCE:
        return ()
    share = _logit_share(predictions.trained, predictions.fp32)
    if not share <= _LOGIT_SHARE:
        raise _differs_error("fp32", difference, f"{share:.1%} of the largest logit, allowed {_LOGIT_SHARE:.1%}")
    if changed := _changed_sure_labels(predictions, classes=classes, mode=mode, policy=policy):
        raise _differs_error("fp32", difference, f"which changes the labels of {changed} images")
    if not _agreed(predictions).any():  # no image could be golden
        raise _differs_error("fp32", difference, f"and on every image by more than {FLOAT_TOLERANCE}")
    return (
        f"the probabilities of LiteRT fp32 differ by up to {difference:.4f}: this is rounding, {share:.2%} of the "
        "largest logit, and no label changes that the model was sure of.",
    )


def _differs_error(name: str, difference: float, judgement: str) -> BadBundle:
    return BadBundle(
        f"the probabilities of the exported {name} differ by {difference:.6f} from the trained model's ({judgement}), "
        "so nothing is published. Please report this with the versions of TensorFlow and ai-edge-litert."
    )


def _logit_share(trained: Floats, exported: Floats) -> float:
    """The largest difference between two logits, as a share of the largest logit.

    Only probabilities that differ by more than FLOAT_TOLERANCE count. The share is nan if a probability is.
    """
    before, after = (_logits(probabilities) for probabilities in (trained, exported))
    matters = ~(np.abs(exported - trained) <= FLOAT_TOLERANCE)
    return float(np.abs(after - before)[matters].max(initial=0.0) / np.abs(before).max())


def _logits(probabilities: Floats) -> Doubles:
    clipped = np.clip(probabilities.astype(np.float64), _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _changed_sure_labels(
    predictions: ExportPredictions, *, classes: tuple[str, ...], mode: Mode, policy: Policy
) -> int:
    """The number of images whose labels the trained model is sure of, and that get other labels from the export."""
    trained, fp32 = (
        score(probabilities, [()] * len(probabilities), classes=classes, mode=mode, policy=policy)
        for probabilities in (predictions.trained, predictions.fp32)
    )
    differ = (trained.decided != fp32.decided).any(axis=1)
    return int((differ & ~trained.uncertain).sum())


def _agreed(predictions: ExportPredictions) -> Bools:
    """On which images LiteRT differs from TensorFlow by no more than `replay_golden` allows, [N]."""
    return np.asarray(np.abs(predictions.fp32 - predictions.trained).max(axis=1) <= FLOAT_TOLERANCE)


def choose_golden(
    images: Pixels,
    predictions: ExportPredictions,
    *,
    classes: tuple[str, ...],
    mode: Mode,
    policy: Policy,
    recheck_margin: float = 0.0,
) -> Golden:
    """Choose up to 16 images whose labels are so clear that another CPU's rounding cannot change them.

    They cover as many distinct label sets as possible, also where the images come sorted by class. Images on which
    LiteRT differs from TensorFlow by more than `replay_golden` allows are left out; `check_parity` refuses a model that
    has no others.

    With rechecks, the golden answers are those of int8 with its rechecks. Some images are rechecked and some not, and
    if possible all are such that another CPU does the same, and that it would not matter if it did not.
    """
    rule = partial(RecheckRule, classes, mode=mode, policy=policy)
    given = predictions.int8
    rechecked = rule(margin=recheck_margin).rows(given)
    answered = np.where(rechecked[:, np.newaxis], predictions.fp32, given)
    margins = _decision_margins(answered, classes=classes, mode=mode, policy=policy)
    agreed = _agreed(predictions)
    # Fp32's answers are more exact, so a rechecked image may be closer to a threshold.
    clear = agreed & (margins > 2 * np.where(rechecked, 2 * FLOAT_TOLERANCE, INT8_TOLERANCE))
    sure_of_recheck = rule(margin=recheck_margin / 4).rows(given) | ~rule(margin=recheck_margin * 2).rows(given)
    similar = np.abs(given - predictions.fp32).max(axis=1) <= INT8_TOLERANCE
    preferred = clear & sure_of_recheck & similar if recheck_margin else clear
    candidates = np.flatnonzero(preferred if preferred.any() else clear)
    if not len(candidates):  # no image is clear: take the clearest one
        candidates = np.array([np.where(agreed, margins, -1).argmax()])
    decided = score(answered, [()] * len(images), classes=classes, mode=mode, policy=policy).decided
    kinds = np.concatenate([decided, rechecked[:, np.newaxis]], axis=1)
    rows = np.sort(_round_robin(candidates, kinds[candidates])[:GOLDEN_IMAGES])
    return Golden(images=images[rows], float32=predictions.fp32[rows], int8=answered[rows])


def _round_robin(rows: Indices, kinds: Bools) -> Indices:
    """The rows in another order: the first of every kind, then the second of every kind, and so on.

    `kinds` has one line per row: its labels, and whether it is rechecked.
    """
    seen: Counter[tuple[bool, ...]] = Counter()
    rounds = []
    for kind in map(tuple, kinds.tolist()):
        rounds.append(seen[kind])
        seen[kind] += 1
    return rows[np.argsort(rounds, kind="stable")]


def _decision_margins(probabilities: Floats, *, classes: tuple[str, ...], mode: Mode, policy: Policy) -> Floats:
    """How far the probabilities of each image, taken together, have to move to change its labels, [N].

    In `single`, two probabilities move towards each other. In `multi`, one probability moves towards a threshold, which
    is fixed, so its distance counts twice.
    """
    if mode == "single":
        ordered = np.sort(probabilities, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])
    defects = [index for index, name in enumerate(classes) if name != GOOD]
    thresholds = np.array([policy.thresholds.get(classes[index], DEFAULT_THRESHOLD) for index in defects])
    return np.asarray(2 * np.abs(probabilities[:, defects] - thresholds).min(axis=1))
