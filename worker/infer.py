"""Infer: one batch through the engine. In: `Batch`. Out: a row of probabilities, or an error, per item.

The only step that touches the model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from model_store.engines import Engine
from model_store.engines.checks import check_answer
from shared.errors import EngineFailed
from worker.items import Decoded

log = logging.getLogger("sortline.infer")

Row = list[float]


def infer(items: Sequence[Decoded], engine: Engine) -> list[Row | EngineFailed]:
    """One row of probabilities per item, in order; an EngineFailed where the engine failed on it.

    When a batch fails, its items are tried one by one, so that one of them doesn't fail the others.
    """
    try:
        return list(_predict(items, engine))
    except EngineFailed as error:
        if len(items) == 1:
            return [error]
        log.warning("a batch of %d failed, trying its items one by one: %s", len(items), error)
    rows: list[Row | EngineFailed] = []
    for item in items:
        rows += infer([item], engine)
    return rows


def _predict(items: Sequence[Decoded], engine: Engine) -> list[Row]:
    pixels = np.stack([item.pixels for item in items])
    try:
        probabilities = engine.predict(pixels)
    except EngineFailed:
        raise
    except Exception as error:  # engines wrap native code: whatever it raises is theirs
        raise EngineFailed(f"{engine.name} raised {type(error).__name__}: {error}") from error
    check_answer(probabilities, images=len(items), classes_count=engine.classes_count, engine=engine.name)
    rows: list[Row] = probabilities.tolist()
    return rows
