"""Checking a bundle in the background, while another model serves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.bundle.files import open_bundle
from model_store.bundle.golden import read_golden
from model_store.engines.loading import open_engine
from model_store.engines.throttled import ThrottledEngine
from model_store.registry.store import ModelStore


class Summing:
    """Answers with the sum of each image."""

    name = "litert"
    input_size_px = 2
    classes_count = 1

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        self.sizes += batch_sizes

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(batch))
        return batch.sum(axis=(1, 2, 3), dtype=np.float32)[:, None]


def test_images_are_run_one_by_one_with_pauses() -> None:
    engine, pauses = Summing(), list[float]()
    images = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
    throttled = ThrottledEngine(engine, sleep=pauses.append)
    assert (throttled.predict(images) == Summing().predict(images)).all()
    assert engine.sizes == [1, 1, 1, 1]
    assert len(pauses) == 4 and min(pauses) > 0
    throttled.warm_up([1, 16])
    assert engine.sizes[4:] == [1, 16]
    assert len(pauses) == 6


@pytest.mark.parametrize("background", [True, False])
def test_standard_error_is_not_silenced_in_the_background(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], background: bool
) -> None:
    """While a bundle is checked in the background, the worker's other threads log to standard error."""

    def speak(images: NDArray[np.uint8]) -> None:
        os.write(2, b"batch of 16 failed\n")

    bundle = open_bundle(ModelStore(tiny_models).resolve("tiny"))
    monkeypatch.setattr(
        "model_store.engines.loading.replay_golden", lambda bundle, engine: speak(read_golden(bundle).images)
    )
    open_engine(bundle, "litert", threads=1, max_batch=4, background=background)
    assert ("batch of 16 failed" in capfd.readouterr().err) is background
