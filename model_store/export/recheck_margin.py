"""Chooses the margin within which fp32 rechecks int8's answers, and measures what the engine then answers.

In: the predictions of the exports on images that were not trained on. Out: the margin, and the metrics of
`manifest.parity`. Called by what publishes a model.

int8's logits differ from fp32's by a noise of 0.05 to 0.4, which hardly depends on the logit. Where a decision is
closer than that, the label may flip: on 1 to 8 % of the images. The margin is a multiple of the noise on these images,
and not the smallest one that passes the gate on them, because a rule with nothing to choose can't overfit them.

Measured with frozen features of EfficientNet-Lite0 and 12 heads, on 80 to 382 unseen frames each, by the multiple:
1.25: 9 of 12 heads agree with fp32 on 99 %, 9 % of the images are rechecked; 1.5: 11, 11 %; 1.75: 12, 12 %; 2: 12,
14 %; 2.25: 12, 16 % (at worst 99.5 %); 2.5: 12, 18 %. Some differences are far larger than a normal distribution
has, up to 8 times the noise, so a multiple of 2.25 leaves more room than such a distribution would need.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from model_store.bundle.int8_gate import int8_refusal_reason
from model_store.bundle.manifest import MAX_RECHECK_MARGIN
from model_store.bundle.policy import DEFAULT_THRESHOLD, GOOD, Mode, Policy
from model_store.engines.recheck import RecheckRule
from model_store.export.parity import ExportPredictions, ViewPredictions, measure_parity, with_views
from shared.arrays import Bools, Doubles, Floats

MARGIN_IN_NOISES = 2.25
# The noise is measured on the closest decisions, because others can't flip: on a quarter of them, or on this many.
_CLOSEST_SHARE = 0.25
_CLOSEST_DECISIONS = 100
# float32 can't tell probabilities apart that are closer to 1 than this.
_MIN_PROBABILITY = 1e-6


class MeasuredExports(NamedTuple):
    """`manifest.parity`, and `manifest.int8_recheck_margin`: 0 if int8 passes the gate without rechecks."""

    parity: dict[str, float]
    recheck_margin: float


def measure_exports(
    predictions: ExportPredictions,
    *,
    classes: tuple[str, ...],
    mode: Mode,
    policy: Policy,
    views: ViewPredictions | None = None,
    labels: Sequence[tuple[str, ...]] | None = None,
    label_mask: Bools | None = None,
) -> MeasuredExports:
    """Measure the exports, and let fp32 recheck int8 if int8 alone doesn't pass the gate. See `measure_parity`.

    With rechecks, what `manifest.parity` says of int8 is about int8 with its rechecks. `int8_rechecked` is the share of
    the compared images that fp32 answers, and `int8_alone_labels_agreement` the `int8_labels_agreement` without it.

    Raises:
        BadBundle: an export's answers contain values that are not numbers.
    """
    measured = partial(measure_parity, classes=classes, mode=mode, policy=policy, labels=labels, label_mask=label_mask)
    alone = measured(predictions, views=views)
    if int8_refusal_reason(alone) is None:
        return MeasuredExports(alone, 0.0)
    compared = with_views(predictions, views)
    margin = recheck_margin(compared, classes=classes, mode=mode, policy=policy)
    rule = RecheckRule(classes, mode=mode, policy=policy, margin=margin)
    answered = predictions._replace(int8=rule.answers(int8=predictions.int8, fp32=predictions.fp32))
    views = views and views._replace(int8=rule.answers(int8=views.int8, fp32=views.fp32))
    shares = {
        "int8_alone_labels_agreement": alone["int8_labels_agreement"],
        "int8_rechecked": float(rule.rows(compared.int8).mean()),
    }
    return MeasuredExports(measured(answered, views=views) | shares, margin)


def recheck_margin(compared: ViewPredictions, *, classes: tuple[str, ...], mode: Mode, policy: Policy) -> float:
    """The margin in logits: MARGIN_IN_NOISES times the noise, the root mean square of int8's differences from fp32."""
    fp32, int8 = _gaps(compared, classes=classes, mode=mode, policy=policy)
    count = max(_CLOSEST_DECISIONS, round(_CLOSEST_SHARE * fp32.size))
    closest = np.argsort(np.abs(fp32), kind="stable")[:count]
    noise = float(np.sqrt(np.mean((int8 - fp32)[closest] ** 2)))
    return min(round(MARGIN_IN_NOISES * noise, 4), MAX_RECHECK_MARGIN)


def _gaps(
    compared: ViewPredictions, *, classes: tuple[str, ...], mode: Mode, policy: Policy
) -> tuple[Doubles, Doubles]:
    """How far fp32 and int8 are from each decision, in logits and with its sign: each float64 [decisions].

    `engines.recheck` says what the decisions are. In `single`, fp32 says which two classes are the most probable.
    """
    if mode == "single":
        top = np.argpartition(compared.fp32, -2, axis=1)[:, -2:]
        fp32, int8 = (np.diff(np.log(_clipped(np.take_along_axis(each, top, axis=1)))).ravel() for each in compared)
        return fp32, int8
    defects = [index for index, name in enumerate(classes) if name != GOOD]
    thresholds = np.array([policy.thresholds.get(classes[index], DEFAULT_THRESHOLD) for index in defects])
    fp32, int8 = ((_logits(each[:, defects]) - _logits(thresholds)).ravel() for each in compared)
    return fp32, int8


def _logits(probabilities: Floats | Doubles) -> Doubles:
    clipped = _clipped(probabilities)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _clipped(probabilities: Floats | Doubles) -> Doubles:
    return np.clip(probabilities.astype(np.float64), _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
