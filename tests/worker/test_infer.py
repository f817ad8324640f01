"""One batch through the engine: its failures stay with the items that cause them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import EngineFailed
from tests.worker import kit
from tests.worker.kit import ToneEngine, decoded
from worker.infer import infer


def test_rows_come_in_the_order_of_the_items() -> None:
    engine = ToneEngine()
    rows = infer([decoded(f"j{tone}", tone=tone) for tone in (0, 51, 255)], engine)
    assert rows == [pytest.approx(row, abs=1e-6) for row in ([1, 0, 0], [0.8, 0.2, 0], [0, 1, 0])]
    assert engine.sizes == [3]


def test_rows_are_plain_floats() -> None:
    (row,) = infer([decoded(tone=51)], ToneEngine())
    assert isinstance(row, list)
    assert {type(value) for value in row} == {float}


def test_a_poisoned_item_fails_alone() -> None:
    engine = ToneEngine(kit.fails_on_red)
    rows = infer([decoded("a", tone=1), decoded("b", tone=255), decoded("c", tone=3)], engine)
    assert [isinstance(row, EngineFailed) for row in rows] == [False, True, False]
    assert "can't stand red" in str(rows[1])
    assert "RuntimeError" in str(rows[1])
    assert engine.sizes == [3, 1, 1, 1]


def test_a_single_item_is_not_tried_twice() -> None:
    engine = ToneEngine(kit.always_fails)
    (row,) = infer([decoded()], engine)
    assert isinstance(row, EngineFailed)
    assert engine.sizes == [1]


class Answering(ToneEngine):
    """An engine whose answers are changed on their way out."""

    def __init__(self, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        super().__init__()
        self._change = change

    def predict(self, batch: kit.Images) -> NDArray[np.float32]:
        return self._change(super().predict(batch))


@pytest.mark.parametrize("change", [lambda rows: rows[:-1], lambda rows: np.repeat(rows, 2, axis=0)])
def test_another_number_of_rows_is_nobodys_answer(change: Callable[..., NDArray[np.float32]]) -> None:
    rows = infer([decoded("a"), decoded("b")], Answering(change))
    assert all(isinstance(row, EngineFailed) for row in rows)


def test_another_number_of_classes_is_nobodys_answer() -> None:
    rows = infer([decoded("a"), decoded("b")], Answering(lambda rows: rows[:, :-1]))
    assert all(isinstance(row, EngineFailed) for row in rows)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_fails_alone(value: float) -> None:
    def poison(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        rows[rows[:, 1] > 0.9] = value
        return rows

    rows = infer([decoded("a"), decoded("b", tone=255)], Answering(poison))
    assert [isinstance(row, EngineFailed) for row in rows] == [False, True]
