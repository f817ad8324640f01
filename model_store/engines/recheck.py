"""The rule by which fp32 rechecks int8's answers: it answers the images on which int8's noise could flip a label.

In: int8's probabilities of one image. Out: whether fp32 must answer that image. Pure; called once per image on the
worker's hot path (some microseconds), and by the export, which measures what it leads to.

An answer is rechecked if one of its decisions is closer than a margin, in logits. In `multi` each defect is a decision,
and what counts is the difference between the logits of its probability and of its threshold; `good` follows from the
defects. In `single` the decision is the difference between the logits of the two most probable classes. That is the
difference of two noisy numbers, so its noise is larger than that of one logit. The margin is a multiple of the noise of
these very differences (`export.recheck_margin`), so the rule needs no factor for that.

The thresholds are those of the bundle's policy. The engine doesn't know a line's own policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from model_store.bundle.policy import DEFAULT_THRESHOLD, GOOD, Mode, Policy
from shared.arrays import Bools, Floats


class RecheckRule:
    """Which of a model's int8 answers fp32 rechecks."""

    def __init__(self, classes: Sequence[str], *, mode: Mode, policy: Policy, margin: float) -> None:
        """`margin` is in logits, from 0 (nothing is rechecked) to `bundle.manifest.MAX_RECHECK_MARGIN`."""
        self._mode = mode
        # Comparing probabilities with bounds that are computed once is cheaper than taking logarithms of each answer.
        self._bands = [
            (column, *_band(policy.thresholds.get(name, DEFAULT_THRESHOLD), margin))
            for column, name in enumerate(classes)
            if name != GOOD
        ]
        # log p - log q < margin, for the softmax of two logits, is q > p x exp(-margin).
        self._least_ratio = math.exp(-margin)

    def applies_to(self, row: Floats) -> bool:
        """Whether fp32 must answer this image, from int8's probabilities [C].

        False if a number is not finite: rechecks are for close decisions, not to hide a broken model.
        """
        if self._mode == "single":
            second, first = np.partition(row, -2)[-2:].tolist()
            return bool(second > first * self._least_ratio)
        values: list[float] = row.tolist()
        # The sum is finite only if all of them are.
        return math.isfinite(sum(values)) and any(low < values[column] < high for column, low, high in self._bands)

    def rows(self, probabilities: Floats) -> Bools:
        """The same for each row of [N, C], bool [N]."""
        return np.array([self.applies_to(row) for row in probabilities], bool)

    def answers(self, *, int8: Floats, fp32: Floats) -> Floats:
        """What the engine answers, from what the two models answer for the same images, each [N, C]."""
        return np.where(self.rows(int8)[:, np.newaxis], fp32, int8)


def _band(threshold: float, margin: float) -> tuple[float, float]:
    """The probabilities whose logits are `margin` below and above that of the threshold.

    A threshold of 0 or 1 has no finite logit: nothing is near to it.
    """
    if not 0 < threshold < 1:
        return threshold, threshold
    odds = threshold / (1 - threshold)
    low, high = odds * math.exp(-margin), odds * math.exp(margin)
    return low / (1 + low), high / (1 + high)
