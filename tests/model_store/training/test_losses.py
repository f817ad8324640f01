"""Losses, compared with Keras's own and with values worked out by hand; unknown targets must not be learned."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.bundle.policy import Mode
from model_store.runtime.tensorflow_imports import import_keras, import_tensorflow
from model_store.training import losses

pytestmark = pytest.mark.training

RNG = np.random.default_rng(4)
LOGITS = RNG.normal(0, 2, (6, 3)).astype(np.float32)
ONE_HOT = np.eye(3, dtype=np.float32)[[0, 1, 2, 2, 1, 0]]
SEVERAL = RNG.integers(0, 2, (6, 3)).astype(np.float32)
NAN = np.float32(np.nan)


def entropy(target: float, logit: float) -> float:
    return float(np.log1p(np.exp(logit)) - target * logit)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_of_complete_targets_equal_those_of_keras(smoothing: float) -> None:
    keras = import_keras()
    categorical, binary = (
        loss(from_logits=True, label_smoothing=smoothing, reduction="none")
        for loss in (keras.losses.CategoricalCrossentropy, keras.losses.BinaryCrossentropy)
    )
    single = losses.loss(ONE_HOT, LOGITS, mode="single", smoothing=smoothing, weights=None)
    np.testing.assert_allclose(single, categorical(ONE_HOT, LOGITS), rtol=1e-5)
    multi = losses.loss(SEVERAL, LOGITS, mode="multi", smoothing=smoothing, weights=None)
    np.testing.assert_allclose(multi, binary(SEVERAL, LOGITS), rtol=1e-5)


def test_unknown_targets_give_neither_loss_nor_gradient() -> None:
    tf = import_tensorflow()
    targets = np.array([[1, NAN, 0], [NAN, NAN, NAN]], np.float32)
    logits = tf.Variable(LOGITS[:2])
    with tf.GradientTape() as tape:
        found = losses.loss(targets, logits, mode="multi", smoothing=0.0, weights=np.array([1, 7, 1], np.float32))
    expected = (entropy(1, LOGITS[0, 0]) + entropy(0, LOGITS[0, 2])) / 2
    np.testing.assert_allclose(found, [expected, 0.0], rtol=1e-5)
    gradient = np.asarray(tape.gradient(found, logits))
    assert (gradient[0, [0, 2]] != 0).all()
    assert gradient[0, 1] == 0
    assert (gradient[1] == 0).all()


def test_weights_multiply_positives_only() -> None:
    targets, weights = np.array([[1, 0]], np.float32), np.array([3, 5], np.float32)
    found = losses.loss(targets, LOGITS[:1, :2], mode="multi", smoothing=0.0, weights=weights)
    expected = (3 * entropy(1, LOGITS[0, 0]) + entropy(0, LOGITS[0, 1])) / 2
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_weights_multiply_the_image_of_the_class() -> None:
    weights = np.array([3, 5, 0.5], np.float32)
    plain = np.asarray(losses.loss(ONE_HOT, LOGITS, mode="single", smoothing=0.1, weights=None))
    found = losses.loss(ONE_HOT, LOGITS, mode="single", smoothing=0.1, weights=weights)
    np.testing.assert_allclose(found, plain * [3, 5, 0.5, 0.5, 5, 3], rtol=1e-5)


def of_counts(positives: list[int], *, images: int) -> NDArray[np.float32]:
    targets = np.zeros((images, len(positives)), np.float32)
    for column, count in enumerate(positives):
        targets[:count, column] = 1
    return targets


def test_class_weights_of_several_labels() -> None:
    # The square root of negatives / positives, between 1 / 5 and 5: for 20 of 100 images it is (80 / 20) ** 0.5 = 2.
    found = losses.class_weights(of_counts([20, 50, 1, 99, 0], images=100), "multi")
    np.testing.assert_allclose(found, [2, 1, 5, 0.2, 5], rtol=1e-6)


def test_class_weights_count_only_known_targets() -> None:
    targets = of_counts([20], images=100)
    targets[40:, 0] = NAN  # 20 with, 20 without, 60 unknown
    np.testing.assert_allclose(losses.class_weights(targets, "multi"), [1.0], rtol=1e-6)


def test_class_weights_of_one_label() -> None:
    targets = np.repeat(np.eye(3, dtype=np.float32), [12, 27, 9], axis=0)  # 16 on average
    expected = np.sqrt([16 / 12, 16 / 27, 16 / 9])
    np.testing.assert_allclose(losses.class_weights(targets, "single"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("mode", "targets", "logits", "expected"),
    [
        ("single", [[0, 1, 0], [1, 0, 0]], [[-1, 3, 2], [0.1, 0.2, 0]], [1, 0]),
        ("multi", [[0, 1, 1], [1, 0, 0]], [[-1, 3, -2], [0.1, -0.2, -9]], [2 / 3, 1]),
        ("multi", [[NAN, 1, NAN], [NAN, NAN, NAN]], [[9, 3, -9], [1, 1, -1]], [1, 0]),
        ("multi", [[NAN, 1, 0]], [[9, -3, -1]], [0.5]),
    ],
)
def test_accuracy(mode: Mode, targets: list[list[float]], logits: list[list[float]], expected: list[float]) -> None:
    found = losses.accuracy(np.array(targets, np.float32), np.array(logits, np.float32), mode=mode)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
