"""Turns one image's probabilities into its labels and its lane.

In: one row of probabilities, one per class. Out: a Decision. Pure, and called once per image on the
worker's hot path.

`good` and a defect exclude each other. In a `multi` model, a defect at or above its threshold always wins, however
probable `good` is, and `good` is then not a label. (Datasets never state both: `good|x` is refused as a contradiction.)

Doubtful images go to a person. In a `single` model these are images whose most probable class is below its threshold;
in a `multi` model, images with a defect near its threshold, and images on which no defect reaches its threshold but
`good` is less likely than not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

from shared.errors import BadSetting
from shared.policy_overrides import Lane, Margin, PolicyOverride, Probability

T = TypeVar("T")
Mode = Literal["single", "multi"]

# The class that applies exactly when no defect does.
GOOD = "good"
# The threshold of a class that has none of its own: such a class applies if it is at least as likely as not.
DEFAULT_THRESHOLD = 0.5

_by_probability = itemgetter(1)


class Band(NamedTuple):
    """A threshold, and the bounds between which a defect's probability is uncertain; at the bounds it is certain."""

    low: float
    threshold: float
    high: float


class Policy(BaseModel):
    """What to do with the model's probabilities. Part of the bundle; each line can override it.

    `thresholds` are per class: a class without one has 0.5, and `good` of a `multi` model has none.
    `precedence` names every class, most important first; `lanes` gives a lane to each. `manual_lane`
    takes images that the model is unsure of; `unsorted_lane` is for results that must not eject a bottle.

    `uncertain_margin` is for `multi`: a defect whose probability is this near to its threshold sends the bottle to
    `manual_lane`. With the default of 0.1, a person checks probabilities from 0.4 to 0.6 if the threshold is 0.5, and
    from 0.08 to 0.28 if it is 0.1 (`band`). A bottle on which no defect reaches its threshold, but whose `good` is less
    likely than not, also goes there: several small doubts can add up to that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    thresholds: dict[str, Probability]
    precedence: tuple[str, ...]
    lanes: dict[str, Lane]
    manual_lane: Lane = "manual"
    unsorted_lane: Lane = "unsorted"
    uncertain_margin: Margin = 0.1

    def band(self, name: str) -> Band:
        """The band of a defect's threshold t: from t(1 - 2m) to t + 2m(1 - t), with the margin m.

        After Chow 1970, "On Optimum Recognition Error and Reject Tradeoff": a person decides where an automatic
        decision would cost too much on average. The threshold t implies the costs: a miss costs as much as (1 - t) / t
        false alarms. With these costs, the expected cost of the better decision is highest at t itself, and inside the
        band it is at least 1 - 2m of that maximum. So the band of 0.5 is 0.5 ± m, and the band of 0.1 doesn't include
        the probability 0, as 0.1 ± m would.
        """
        threshold, narrowed = self.thresholds.get(name, DEFAULT_THRESHOLD), 1 - 2 * self.uncertain_margin
        return Band(threshold * narrowed, threshold, 1 - (1 - threshold) * narrowed)

    @classmethod
    def default(cls, classes: Sequence[str], mode: Mode) -> Policy:
        """The policy of an untuned model: every threshold is 0.5, defects come before `good`, each class has a lane."""
        defects = [name for name in classes if name != GOOD]
        good = [GOOD] if GOOD in classes else []
        return cls(
            thresholds=dict.fromkeys(classes if mode == "single" else defects, DEFAULT_THRESHOLD),
            precedence=(*defects, *good),
            lanes={name: name.replace(" ", "-") for name in classes},
        )

    def shared_lanes(self) -> list[str]:
        """The lanes in which an ejector can't tell bottles apart, one phrase each: lanes of several classes, and those
        of a class that also take doubtful or unsorted bottles.
        """
        names_by_lane: dict[str, list[str]] = {}
        for name, lane in self.lanes.items():
            names_by_lane.setdefault(lane, []).append(name)
        also = {self.manual_lane: "uncertain bottles", self.unsorted_lane: "bottles that are not sorted"}
        return [
            f"the lane {lane!r} is for {' and '.join([*map(repr, names), *([also[lane]] if lane in also else [])])}"
            for lane, names in names_by_lane.items()
            if len(names) > 1 or lane in also
        ]

    def mismatches(self, classes: Sequence[str]) -> list[str]:
        """The reasons why this policy can't decide for `classes`, one phrase each; empty when it fits.

        A misspelled class is a mismatch, because its threshold would be ignored silently.
        """
        named = {*self.thresholds, *self.lanes, *self.precedence}
        return [
            *(f"{name!r} has no lane" for name in classes if name not in self.lanes),
            *(f"{name!r} has no place in the precedence" for name in classes if name not in self.precedence),
            *(f"{name!r} is not a class" for name in sorted(named.difference(classes))),
        ]

    def overridden(self, override: PolicyOverride) -> Policy:
        """This policy with `override` applied; PolicyOverride says how each field is merged."""
        others = (name for name in self.precedence if name not in override.precedence)
        return Policy(
            thresholds=self.thresholds | override.thresholds,
            precedence=(*override.precedence, *others),
            lanes=self.lanes | override.lanes,
            manual_lane=_or_default(override.manual_lane, self.manual_lane),
            unsorted_lane=_or_default(override.unsorted_lane, self.unsorted_lane),
            uncertain_margin=_or_default(override.uncertain_margin, self.uncertain_margin),
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """The labels that apply, as (label, probability), most probable first, and the lane of the bottle.

    `uncertain`: the model is unsure of the labels, and the lane is the policy's `manual_lane`.
    """

    labels: tuple[tuple[str, float], ...]
    lane: str
    uncertain: bool


def decide(probabilities: Sequence[float], classes: Sequence[str], *, mode: Mode, policy: Policy) -> Decision:
    """Decide labels and lane of one image.

    Args:
        probabilities: 0..1, one per class, plain floats (`row.tolist()`: numpy's scalars are slow here).
        classes: the class of each probability; for `multi` they include `good`, which the model derives.
        mode: `single`: the most probable class is the label. `multi`: every defect at or above its
            threshold is a label; without one, `good` is.
        policy: must fit `classes`; a manifest's policy always does.

    A NaN never reaches a threshold. An image whose label (`single`), or one of whose defects (`multi`), has the
    probability NaN is uncertain and goes to `manual_lane`.

    Raises:
        ValueError: the numbers of probabilities and of classes differ.
    """
    if mode == "single":
        label, probability = max(zip(classes, probabilities, strict=True), key=_by_probability)
        certain = probability >= policy.thresholds.get(label, DEFAULT_THRESHOLD)
        lane = policy.lanes[label] if certain else policy.manual_lane
        return Decision(((label, probability),), lane, uncertain=not certain)
    return _decide_multi(probabilities, classes, policy=policy)


def _decide_multi(probabilities: Sequence[float], classes: Sequence[str], *, policy: Policy) -> Decision:
    labels: list[tuple[str, float]] = []
    good = 0.0
    certain = True
    for name, probability in zip(classes, probabilities, strict=True):
        if name == GOOD:
            good = probability
            continue
        low, threshold, high = policy.band(name)
        if probability >= threshold:
            labels.append((name, probability))
        # Written so that NaN, which compares false with everything, is uncertain.
        if not (probability >= high or probability <= low):
            certain = False
    if not labels:
        labels.append((GOOD, good))
        # Several small doubts can add up: no defect reaches its threshold, yet `good` is less likely than not.
        certain = certain and good >= DEFAULT_THRESHOLD
    elif len(labels) > 1:
        labels.sort(key=_by_probability, reverse=True)
    if not certain:
        return Decision(tuple(labels), policy.manual_lane, uncertain=True)
    return Decision(tuple(labels), policy.lanes[_most_important(labels, policy.precedence)], uncertain=False)


def _most_important(labels: list[tuple[str, float]], precedence: tuple[str, ...]) -> str:
    if len(labels) == 1:
        return labels[0][0]
    return min((name for name, _ in labels), key=precedence.index)


def policies_by_line(
    policy: Policy, overrides: Mapping[str, PolicyOverride], *, classes: Sequence[str], mode: Mode, model: str
) -> dict[str, Policy]:
    """The policy of each line that has overrides: the bundle's `policy` with the setting `policies` applied.

    `model` names the bundle in errors, e.g. `bottles@3`.

    Raises:
        BadSetting: an override names a class that the model doesn't have, or sets a threshold for `good` of a `multi`
            model, which uses none.
    """
    for line, override in overrides.items():
        for key, name, value in _named_classes(override):
            location = f"setting policies.{line}.{key}: {name!r}{value}"
            if name not in classes:
                raise BadSetting(
                    f"{location} is not a class of {model}: its classes are {', '.join(classes)}. Rename it, or take "
                    "it out."
                )
            if key == "thresholds" and mode == "multi" and name == GOOD:
                raise BadSetting(
                    f"{location} would change nothing: in the multi model {model} {GOOD!r} applies when no defect "
                    "does. Set the defects' thresholds."
                )
    return {line: policy.overridden(override) for line, override in overrides.items()}


def _or_default(value: T | None, default: T) -> T:
    return default if value is None else value


def _named_classes(override: PolicyOverride) -> list[tuple[str, str, str]]:
    """(key, class, " = value") for every class that an override names."""
    return [
        *(("thresholds", name, f" = {value}") for name, value in override.thresholds.items()),
        *(("lanes", name, f" = {value!r}") for name, value in override.lanes.items()),
        *(("precedence", name, "") for name in override.precedence),
    ]
