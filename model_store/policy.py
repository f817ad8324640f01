"""From one image's probabilities to its labels and its lane.

In: one row of probabilities, one per class. Out: a Decision. Pure, and called once per image on the
worker's hot path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["single", "multi"]
Probability = Annotated[float, Field(ge=0, le=1)]

# The class that applies exactly when no defect does.
GOOD = "good"
# A class without a threshold of its own applies when it is more likely than not.
DEFAULT_THRESHOLD = 0.5

_by_probability = itemgetter(1)


class Policy(BaseModel):
    """What to do with the model's probabilities: data of the bundle, overridable per line.

    `thresholds` are per class (a class that isn't in it has 0.5; `good` of a `multi` model has none).
    `precedence` names every class, most important first; `lanes` gives a lane to each. `manual_lane`
    takes what the model isn't sure of; `unsorted_lane` is for results that must not eject a bottle.
    `uncertain_margin` is for `multi`: a defect nearer than this to its threshold sends the bottle to
    `manual_lane`; 0.1 by default, so that with a threshold of 0.5 a person looks at 0.4 to 0.6. So does a
    `good` that is less likely than not, which several small doubts add up to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    thresholds: dict[str, Probability]
    precedence: tuple[str, ...]
    lanes: dict[str, Annotated[str, Field(min_length=1)]]
    manual_lane: Annotated[str, Field(min_length=1)] = "manual"
    unsorted_lane: Annotated[str, Field(min_length=1)] = "unsorted"
    uncertain_margin: Probability = 0.1

    @classmethod
    def default(cls, classes: Sequence[str], mode: Mode) -> Policy:
        """The policy of a model nobody has tuned: threshold 0.5, defects before `good`, a lane per class."""
        defects = [name for name in classes if name != GOOD]
        good = [GOOD] if GOOD in classes else []
        return cls(
            thresholds=dict.fromkeys(classes if mode == "single" else defects, DEFAULT_THRESHOLD),
            precedence=(*defects, *good),
            lanes={name: name.replace(" ", "-") for name in classes},
        )

    def mismatches(self, classes: Sequence[str]) -> list[str]:
        """What keeps this policy from deciding for `classes`, one phrase each; empty when it fits.

        A misspelt class counts: its threshold would be passed over in silence.
        """
        named = {*self.thresholds, *self.lanes, *self.precedence}
        return [
            *(f"{name!r} has no lane" for name in classes if name not in self.lanes),
            *(f"{name!r} has no place in the precedence" for name in classes if name not in self.precedence),
            *(f"{name!r} is not a class" for name in sorted(named.difference(classes))),
        ]


@dataclass(frozen=True, slots=True)
class Decision:
    """The labels that apply as (label, probability), most probable first, and the lane of the bottle."""

    labels: tuple[tuple[str, float], ...]
    lane: str


def decide(probabilities: Sequence[float], classes: Sequence[str], mode: Mode, policy: Policy) -> Decision:
    """Decide labels and lane of one image.

    Args:
        probabilities: 0..1, one per class, plain floats (`row.tolist()`: numpy's scalars are slow here).
        classes: order of `probabilities`; for `multi` it contains `good`, which the model derives.
        mode: `single`: the most probable class is the label. `multi`: every defect at or above its
            threshold is, or else `good`.
        policy: one that fits `classes` (a manifest holds no other).

    A probability that is not a number is never at or above a threshold and always uncertain: `manual`.

    Raises:
        ValueError: another number of probabilities than of classes.
    """
    if mode == "single":
        label, probability = max(zip(classes, probabilities, strict=True), key=_by_probability)
        sure = probability >= policy.thresholds.get(label, DEFAULT_THRESHOLD)
        return Decision(((label, probability),), policy.lanes[label] if sure else policy.manual_lane)
    return _decide_multi(probabilities, classes, policy)


def _decide_multi(probabilities: Sequence[float], classes: Sequence[str], policy: Policy) -> Decision:
    thresholds, margin = policy.thresholds, policy.uncertain_margin
    labels: list[tuple[str, float]] = []
    good = 0.0
    certain = True
    for name, probability in zip(classes, probabilities, strict=True):
        if name == GOOD:
            good = probability
            continue
        distance = probability - thresholds.get(name, DEFAULT_THRESHOLD)
        if distance >= 0:
            labels.append((name, probability))
        # Written so that NaN, which compares false with everything, is uncertain.
        if not (distance >= margin or distance <= -margin):
            certain = False
    if not labels:
        labels.append((GOOD, good))
        # Several small doubts add up: no defect by itself, yet `good` less likely than not.
        certain = certain and good >= DEFAULT_THRESHOLD
    elif len(labels) > 1:
        labels.sort(key=_by_probability, reverse=True)
    if not certain:
        return Decision(tuple(labels), policy.manual_lane)
    return Decision(tuple(labels), policy.lanes[_first(labels, policy.precedence)])


def _first(labels: list[tuple[str, float]], precedence: tuple[str, ...]) -> str:
    if len(labels) == 1:
        return labels[0][0]
    return min((name for name, _ in labels), key=precedence.index)
