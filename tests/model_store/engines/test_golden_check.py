"""An engine that does not give the golden answers is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.bundle.files import open_bundle
from model_store.bundle.golden import Golden, read_golden, write_golden
from model_store.engines.golden_check import FLOAT_TOLERANCE, INT8_TOLERANCE, MIXED_TOLERANCE, replay_golden
from model_store.engines.protocol import EngineName
from shared.errors import BadBundle


class Answering:
    """An engine with fixed answers, to test how the replay judges them."""

    input_size_px = 32
    classes_count = 3

    def __init__(self, name: EngineName, answers: NDArray[np.float32]) -> None:
        self.name = name
        self._answers = answers

    def warm_up(self, batch_sizes: object) -> None:
        raise AssertionError("replay needs no warm-up")

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert batch.flags.c_contiguous
        assert len(batch) == len(self._answers)
        return self._answers


@pytest.mark.parametrize("name", ["litert", "litert-fp32", "tensorflow", "tensorflow-mixed"])
def test_the_golden_answers_themselves_pass(tiny_bundle: Path, name: EngineName) -> None:
    bundle = open_bundle(tiny_bundle)
    expected = read_golden(bundle)
    replay_golden(bundle, Answering(name, expected.int8 if name == "litert" else expected.float32))


@pytest.mark.parametrize("name", ["litert", "litert-fp32", "tensorflow", "tensorflow-mixed"])
@pytest.mark.parametrize("times_tolerance", [0.9, 1.1, np.nan])
def test_one_answer_off_by_more_than_the_tolerance_is_refused(
    tiny_bundle: Path, name: EngineName, times_tolerance: float
) -> None:
    bundle = open_bundle(tiny_bundle)
    expected = read_golden(bundle)
    tolerance = {"litert": INT8_TOLERANCE, "tensorflow-mixed": MIXED_TOLERANCE}.get(name, FLOAT_TOLERANCE)
    answers = (expected.int8 if name == "litert" else expected.float32).copy()
    answers[3, 1] += times_tolerance * tolerance
    if times_tolerance < 1:
        replay_golden(bundle, Answering(name, answers))
    else:
        with pytest.raises(BadBundle, match=r"answer to golden image 3 is off by (nan|0\.\d+)"):
            replay_golden(bundle, Answering(name, answers))


@pytest.mark.parametrize("engine", ["litert", "tensorflow-mixed"])
def test_rounded_answers_within_the_tolerance_must_give_the_same_labels(copied: Path, engine: EngineName) -> None:
    bundle = open_bundle(copied)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    before, after = (np.array([[0.49, row, 0.02]], np.float32) for row in (0.51, 0.49))
    write_golden(copied, Golden(images=images, float32=before, int8=before))
    replay_golden(bundle, Answering(engine, before))
    with pytest.raises(BadBundle, match=r"image 0 is now good, but was no cap"):
        replay_golden(bundle, Answering(engine, after))
