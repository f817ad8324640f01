"""Infer: one batch through the engine. In: pixels. Out: a row of probabilities, or an error, per image.

The only step that touches the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from model_store.engines.protocol import Engine
from model_store.engines.validation import check_answer
from shared.errors import EngineFailed
from shared.images.arrays import Images
from worker.state.jobs import Decoded
from worker.state.pixel_buffer import Place

if TYPE_CHECKING:
    from worker.models.routing import Trial

log = logging.getLogger("sortline.infer")

Row = list[float]


class Answered(NamedTuple):
    """An item and what its model said of it."""

    item: Decoded
    row: Row | EngineFailed


class CanaryFault(NamedTuple):
    """A canary that failed on an image, and how."""

    trial: Trial
    error: EngineFailed


def infer(images: Images, engine: Engine, *, hungry: Callable[[], None] | None = None) -> list[Row | EngineFailed]:
    """One row of probabilities per image, in order; an EngineFailed where the engine failed on it.

    When a batch fails, its images are tried one by one, so that one of them doesn't fail the others. `hungry` is the
    engine's to call.
    """
    try:
        return list(_predict(images, engine, hungry))
    except EngineFailed as error:
        if len(images) == 1:
            return [error]
        log.warning("a batch of %d failed, trying its items one by one: %s", len(images), error)
    rows: list[Row | EngineFailed] = []
    for index in range(len(images)):
        rows += infer(images[index : index + 1], engine)
    return rows


def rescue(answered: Iterable[Answered]) -> tuple[list[Answered], CanaryFault | None]:
    """Have the other model answer where a canary's engine failed.

    Returns:
        all items with their rows, in order, and a failure of the canary where the other model did answer: an image that
        no engine can run is not the canary's fault.
    """
    after: list[Answered] = []
    fault: CanaryFault | None = None
    for item, row in answered:
        peer = item.peer
        if not isinstance(row, EngineFailed) or not item.by_canary or peer is None or peer.pixels is None:
            after.append(Answered(item, row))
            continue
        (again,) = infer(peer.pixels[np.newaxis], peer.model.engine)
        if not isinstance(again, EngineFailed):
            fault = CanaryFault(peer.trial, row)
        after.append(Answered(replace(item, model=peer.model, place=Place(peer.pixels), peer=None), again))
    return after, fault


def _predict(images: Images, engine: Engine, hungry: Callable[[], None] | None) -> list[Row]:
    try:
        probabilities = engine.predict(images, hungry=hungry)
    except EngineFailed:
        raise
    except Exception as error:  # engines wrap native code: whatever it raises is theirs
        raise EngineFailed(f"{engine.name} raised {type(error).__name__}: {error}") from error
    check_answer(probabilities, images=len(images), classes_count=engine.classes_count, engine=engine.name)
    rows: list[Row] = probabilities.tolist()
    return rows
