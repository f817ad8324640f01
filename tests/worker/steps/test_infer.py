"""One batch through the engine: a failure affects only the items that cause it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import EngineFailed
from shared.settings import Settings
from tests.worker import kit, step_inputs
from tests.worker.kit import ToneEngine
from worker.steps.infer import InferStep, infer
from worker.steps.work import Batch


def test_probabilities_come_in_the_order_of_the_items() -> None:
    engine = ToneEngine()
    outputs = infer(step_inputs.shades(0, 51, 255), engine)
    assert outputs == [pytest.approx(output, abs=1e-6) for output in ([1, 0, 0], [0.8, 0.2, 0], [0, 1, 0])]
    assert engine.sizes == [3]


def test_probabilities_are_plain_floats() -> None:
    (output,) = infer(step_inputs.shades(51), ToneEngine())
    assert isinstance(output, list)
    assert {type(value) for value in output} == {float}


def test_a_poisoned_item_fails_alone() -> None:
    engine = ToneEngine(kit.fails_on_red)
    outputs = infer(step_inputs.shades(1, 255, 3), engine)
    assert [isinstance(output, EngineFailed) for output in outputs] == [False, True, False]
    assert "can't stand red" in str(outputs[1])
    assert "RuntimeError" in str(outputs[1])
    assert engine.sizes == [3, 1, 1, 1]


def test_a_single_item_is_not_tried_twice() -> None:
    engine = ToneEngine(kit.always_fails)
    (output,) = infer(step_inputs.shades(0), engine)
    assert isinstance(output, EngineFailed)
    assert engine.sizes == [1]


class Answering(ToneEngine):
    """An engine whose answers are changed on their way out."""

    def __init__(self, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        super().__init__()
        self._change = change

    def predict(self, batch: kit.Pixels, *, on_ready_for_next: object = None) -> NDArray[np.float32]:
        return self._change(super().predict(batch))


@pytest.mark.parametrize("change", [lambda outputs: outputs[:-1], lambda outputs: np.repeat(outputs, 2, axis=0)])
def test_a_wrong_number_of_answers_fails_every_item(change: Callable[..., NDArray[np.float32]]) -> None:
    outputs = infer(step_inputs.shades(0, 0), Answering(change))
    assert all(isinstance(output, EngineFailed) for output in outputs)


def test_a_wrong_number_of_classes_fails_every_item() -> None:
    outputs = infer(step_inputs.shades(0, 0), Answering(lambda outputs: outputs[:, :-1]))
    assert all(isinstance(output, EngineFailed) for output in outputs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_item_whose_probabilities_are_not_finite_fails_alone(value: float) -> None:
    def poison(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs[outputs[:, 1] > 0.9] = value
        return outputs

    outputs = infer(step_inputs.shades(0, 255), Answering(poison))
    assert [isinstance(output, EngineFailed) for output in outputs] == [False, True]


def test_an_expired_image_says_what_the_plan_knew(settings: Settings) -> None:
    """Not what a batch would take when the step comes to it: by then the engine may be free again."""
    run = kit.pipeline(settings, kit.pipeline_components(settings, ToneEngine()))
    flow = run._flow
    item = step_inputs.decoded(deadline_at=time.time() + 60.0, by=flow.active_models.current.stable)
    flow.inflight.add([item.admitted.claimed.lease])
    InferStep(flow)._run(Batch((), "full", (item,), needs_s=61.0))
    (finished,) = flow.finished.get_nowait()
    assert finished.result is not None and finished.result.error is not None
    assert finished.result.error.startswith("not started: it would have taken about 61000 ms more, ")
