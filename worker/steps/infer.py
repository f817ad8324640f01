"""Infer: runs one batch through the engine. In: pixels. Out: probabilities or an error for each image.

The only step that touches the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from model_store.engines.protocol import Engine
from model_store.engines.validation import check_answer
from shared.errors import EngineFailed
from shared.images.arrays import Images
from worker.models.model import Probabilities
from worker.models.routing import ActiveCanary
from worker.state.pixel_buffer import PixelSlot
from worker.steps.work import Decoded

log = logging.getLogger("sortline.infer")


class Prediction(NamedTuple):
    """An item and the output of its model."""

    item: Decoded
    output: Probabilities | EngineFailed


class CanaryFault(NamedTuple):
    """A canary that failed on an image, and its error."""

    canary: ActiveCanary
    error: EngineFailed


def infer(
    images: Images, engine: Engine, *, on_ready_for_next: Callable[[], None] | None = None
) -> list[Probabilities | EngineFailed]:
    """The probabilities of each image, in order; an EngineFailed where the engine failed on the image.

    If a batch fails, its images are tried one by one, so that one image doesn't fail the others. The engine calls
    `on_ready_for_next` when it could accept another batch.
    """
    try:
        return list(_predict(images, engine, on_ready_for_next))
    except EngineFailed as error:
        if len(images) == 1:
            return [error]
        log.warning("a batch of %d failed, trying its items one by one: %s", len(images), error)
    outputs: list[Probabilities | EngineFailed] = []
    for index in range(len(images)):
        outputs += infer(images[index : index + 1], engine)
    return outputs


def retry_on_stable_model(predictions: Iterable[Prediction]) -> tuple[list[Prediction], CanaryFault | None]:
    """Run the images on which a canary's engine failed on the stable model instead.

    Returns:
        the predictions of all items, in order, and a fault of the canary where the stable model could answer: an image
        that no engine can run is not the canary's fault.
    """
    after: list[Prediction] = []
    fault: CanaryFault | None = None
    for item, output in predictions:
        comparison = item.comparison
        if (
            not isinstance(output, EngineFailed)
            or not item.by_canary
            or comparison is None
            or comparison.pixels is None
        ):
            after.append(Prediction(item, output))
            continue
        (again,) = infer(comparison.pixels[np.newaxis], comparison.model.engine)
        if not isinstance(again, EngineFailed):
            fault = CanaryFault(comparison.canary, output)
        on_stable = replace(item, model=comparison.model, slot=PixelSlot(comparison.pixels), comparison=None)
        after.append(Prediction(on_stable, again))
    return after, fault


def _predict(images: Images, engine: Engine, on_ready_for_next: Callable[[], None] | None) -> list[Probabilities]:
    try:
        probabilities = engine.predict(images, on_ready_for_next=on_ready_for_next)
    except EngineFailed:
        raise
    except Exception as error:  # native code raises what it likes
        raise EngineFailed(f"{engine.name} raised {type(error).__name__}: {error}") from error
    check_answer(probabilities, images=len(images), classes_count=engine.classes_count, engine=engine.name)
    outputs: list[Probabilities] = probabilities.tolist()
    return outputs
