"""From a trained head and its validation images to calibrated answers and a policy for them.

In: the head's logits and the true answers. Out: a Tuning: what to fold into the head, which policy to publish, and
figures of both that don't flatter. Numpy only, pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.policy import Mode, Policy
from model_store.evaluation.metrics import Bools, ScoredPredictions, score
from model_store.training.calibration import Calibration, cross_fitted, dealt, fit
from model_store.training.head import activated, outputs_of
from model_store.training.thresholds import F1, Objective, choose_thresholds

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tuning:
    """How a head's answers are to be read.

    `before` and `after` are the validation images' probabilities, float32 [N, C], as the head gave them and calibrated
    out of fold. `fold` [N] is the fold of each image, `fold_policies` the policy that was chosen without that fold.
    """

    classes: tuple[str, ...]
    mode: Mode
    calibration: Calibration
    policy: Policy
    notes: tuple[str, ...]
    before: Floats
    after: Floats
    fold: NDArray[np.intp]
    fold_policies: tuple[Policy, ...]

    def score_out_of_fold(
        self, labels: Sequence[tuple[str, ...]], *, label_mask: Bools | None = None
    ) -> ScoredPredictions:
        """The validation images as they would be decided by a calibration and thresholds that never saw them.

        `evaluation.metrics.compute_metrics` of it are what to expect of fresh images: those of the final policy on the
        images that it was chosen on are too good (on 24 splits of the bottle frames by 0.035 of macro F1).

        Args:
            labels: the true ones of the N images.
            label_mask: bool [N, C], as of `evaluation.metrics.score`.
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


def tune(logits: Floats, targets: Floats, *, classes: Sequence[str], mode: Mode, objective: Objective = F1) -> Tuning:
    """Calibrate on validation images and choose the thresholds there.

    Args:
        logits: [N >= 1, outputs] of images that the head was not trained on; columns as of `training.outputs_of`.
        targets: [N, outputs] (`training.targets_of`), NaN where nobody knows.

    Raises:
        BadSetting: the objective is not for this mode.
        ValueError: logits or targets that can't be.
    """
    objective.check(mode)
    names, outputs = tuple(classes), outputs_of(classes, mode)
    after = activated(cross_fitted(logits, targets, mode=mode), classes=names, mode=mode)
    of_outputs = after[:, [names.index(name) for name in outputs]]
    fold = dealt(logits, targets)

    def chosen(rows: NDArray[np.bool_]) -> tuple[Policy, tuple[str, ...]]:
        found = choose_thresholds(of_outputs[rows], targets[rows], outputs=outputs, mode=mode, objective=objective)
        return Policy.default(names, mode).model_copy(update={"thresholds": found.thresholds}), found.notes

    policy, notes = chosen(np.ones(len(fold), bool))
    return Tuning(
        classes=names,
        mode=mode,
        calibration=fit(logits, targets, mode=mode),
        policy=policy,
        notes=notes,
        before=activated(logits, classes=names, mode=mode),
        after=after,
        fold=fold,
        fold_policies=tuple(chosen(fold != number)[0] for number in range(fold.max() + 1)),
    )


def _in_order(parts: Sequence[ScoredPredictions], fold: NDArray[np.intp], *, policy: Policy) -> ScoredPredictions:
    """The predictions of all folds as one, with the images in their original order."""
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
