"""Decision tuning: from a trained head and its validation images to calibrated probabilities and a policy.

In: the head's logits and the true labels. Out: a DecisionTuning: the calibration to fold into the head, the policy to
publish, and unbiased metrics of both. Numpy only, pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from model_store.bundle.policy import Mode, Policy
from model_store.evaluation.metrics import ScoredPredictions, score
from model_store.training.calibration import Calibration, cross_fitted, fit, fold_assignment
from model_store.training.head import outputs_of, probabilities_of
from model_store.training.thresholds import F1, Objective, choose_thresholds
from shared.arrays import Bools, Floats, Indices


@dataclass(frozen=True)
class DecisionTuning:
    """How a head's logits become decisions.

    Attributes:
        before: the validation images' probabilities before calibration, float32 [N, C].
        after: the same images' probabilities, each calibrated without the images of its own fold.
        fold: the fold of each image, [N].
        fold_policies: for each fold, the policy that was chosen without its images.
    """

    classes: tuple[str, ...]
    mode: Mode
    calibration: Calibration
    policy: Policy
    notes: tuple[str, ...]
    before: Floats
    after: Floats
    fold: Indices
    fold_policies: tuple[Policy, ...]

    def score_out_of_fold(
        self, labels: Sequence[tuple[str, ...]], *, label_mask: Bools | None = None
    ) -> ScoredPredictions:
        """The validation images, decided by calibrations and thresholds that were chosen without them.

        The metrics of these predictions (`evaluation.metrics.compute_metrics`) estimate those on fresh images. Measured
        on the images that it was chosen on, the final policy looks better than it is: by 0.035 of macro F1 on 24 splits
        of the bottle frames.

        Args:
            labels: the true labels of the N images.
            label_mask: bool [N, C], as for `evaluation.metrics.score`.
        """
        parts = []
        for number, policy in enumerate(self.fold_policies):
            rows = np.flatnonzero(self.fold == number).tolist()
            parts.append(
                score(
                    self.after[rows],
                    [labels[row] for row in rows],
                    classes=self.classes,
                    mode=self.mode,
                    policy=policy,
                    label_mask=None if label_mask is None else label_mask[rows],
                )
            )
        return _in_order(parts, self.fold, policy=self.policy)


def tune_decisions(
    logits: Floats, targets: Floats, *, classes: Sequence[str], mode: Mode, objective: Objective = F1
) -> DecisionTuning:
    """Calibrate on validation images, and choose the thresholds on the same images.

    Args:
        logits: [N >= 1, outputs] of images that the head was not trained on, with the columns of `head.outputs_of`.
        targets: [N, outputs], from `head.targets_of`; NaN where unknown.

    Raises:
        BadSetting: the objective is not for this mode.
        ValueError: impossible logits or targets.
    """
    objective.check(mode)
    names, outputs = tuple(classes), outputs_of(classes, mode)
    after = probabilities_of(cross_fitted(logits, targets, mode=mode), classes=names, mode=mode)
    output_probabilities = after[:, [names.index(name) for name in outputs]]
    fold = fold_assignment(logits, targets)

    def choose_policy(rows: Bools) -> tuple[Policy, tuple[str, ...]]:
        found = choose_thresholds(
            output_probabilities[rows], targets[rows], outputs=outputs, mode=mode, objective=objective
        )
        return Policy.default(names, mode).model_copy(update={"thresholds": found.thresholds}), found.notes

    policy, notes = choose_policy(np.ones(len(fold), bool))
    return DecisionTuning(
        classes=names,
        mode=mode,
        calibration=fit(logits, targets, mode=mode),
        policy=policy,
        notes=notes,
        before=probabilities_of(logits, classes=names, mode=mode),
        after=after,
        fold=fold,
        fold_policies=tuple(choose_policy(fold != number)[0] for number in range(fold.max() + 1)),
    )


def _in_order(parts: Sequence[ScoredPredictions], fold: Indices, *, policy: Policy) -> ScoredPredictions:
    """The folds' results as one, with the images in their original order."""
    order = np.argsort(np.argsort(fold, kind="stable"), kind="stable")
    lanes = [lane for part in parts for lane in part.lanes]
    return replace(
        parts[0],
        policy=policy,
        probabilities=np.concatenate([part.probabilities for part in parts])[order],
        truth=np.concatenate([part.truth for part in parts])[order],
        label_mask=np.concatenate([part.label_mask for part in parts])[order],
        decided=np.concatenate([part.decided for part in parts])[order],
        uncertain=np.concatenate([part.uncertain for part in parts])[order],
        correct=np.concatenate([part.correct for part in parts])[order],
        lanes=tuple(lanes[index] for index in order),
    )
