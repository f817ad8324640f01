"""The head's training, compared with plain Keras and with its documentation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.bundle.policy import Mode
from model_store.runtime.tensorflow_imports import import_keras
from model_store.training import losses
from model_store.training.head import (
    TUTORIAL,
    Examples,
    HeadSettings,
    Scaler,
    TrainResult,
    logits_of,
    probabilities_of,
    targets_of,
    train_head,
)

pytestmark = pytest.mark.training

WIDTH = 12
CLASSES = ("good", "no cap", "pigmented")


def examples(count: int, *, seed: int, mode: Mode, noise: float = 1.0) -> Examples:
    """Features of different magnitudes; the classes differ along three directions."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(0, 1, (3, WIDTH))
    if mode == "single":
        targets = np.eye(3, dtype=np.float32)[rng.integers(0, 3, count)]
    else:
        targets = rng.integers(0, 2, (count, 2)).astype(np.float32)
    plain = targets @ directions[: targets.shape[1]] + rng.normal(0, noise, (count, WIDTH))
    return Examples((plain * np.geomspace(0.1, 10, WIDTH) + 3).astype(np.float32), targets)


def trained(
    train: Examples, validation: Examples, settings: HeadSettings, *, mode: Mode = "single", seed: int = 7
) -> TrainResult:
    told: list[int] = []
    fitted = train_head(
        train, validation, classes=CLASSES, mode=mode, settings=settings, seed=seed, on_progress=told.append
    )
    assert sum(told) == len(fitted.history["loss"])
    return fitted


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_a_head_classifies_images_that_it_has_not_seen(mode: Mode) -> None:
    held_out = examples(200, seed=3, mode=mode, noise=0.6)
    head = trained(examples(200, seed=1, mode=mode, noise=0.6), held_out, HeadSettings(), mode=mode).head
    right = np.asarray(losses.accuracy(held_out.targets, logits_of(head, held_out.features), mode=mode))
    assert right.mean() > 0.9


def test_folding_the_scaler_changes_no_answer() -> None:
    features = examples(50, seed=1, mode="single").features
    rng, scaler = np.random.default_rng(2), Scaler.of(features)
    kernel, bias = rng.normal(0, 1, (WIDTH, 3)).astype(np.float32), rng.normal(0, 1, 3).astype(np.float32)
    plain_kernel, plain_bias = scaler.fold_into_dense(kernel, bias)
    standardised = (features.astype(float) - scaler.mean) / scaler.scale @ kernel + bias
    np.testing.assert_allclose(features @ plain_kernel + plain_bias, standardised, atol=1e-4)


def test_the_scaler_does_not_amplify_features_that_hardly_vary() -> None:
    features = np.random.default_rng(3).normal(5, [1.0, 1e-6], (400, 2)).astype(np.float32)
    deviations = Scaler.of(features).apply(features).std(axis=0)
    assert 0.9 < deviations[0] <= 1
    assert deviations[1] < 1e-4


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_the_best_epoch_is_restored_and_training_ends_after_the_patience(mode: Mode) -> None:
    # With few noisy images and a high rate, the validation loss falls and then rises.
    train, validation = examples(24, seed=1, mode=mode, noise=2.0), examples(60, seed=2, mode=mode, noise=2.0)
    settings = HeadSettings(epochs=60, learning_rate=0.03, decays=False, patience=6)
    fitted = trained(train, validation, settings, mode=mode)
    head, history, best = fitted.head, fitted.history, fitted.best_epoch
    assert best == int(np.argmin(history["val_loss"]))
    assert best > 0
    assert len(history["val_loss"]) == best + 1 + 6 < 60
    weights = losses.class_weights(train.targets, mode)
    logits = logits_of(head, validation.features)
    found = losses.loss(validation.targets, logits, mode=mode, smoothing=settings.label_smoothing, weights=weights)
    assert float(np.mean(found)) == pytest.approx(min(history["val_loss"]), rel=1e-4)


def test_the_best_epoch_is_restored_without_early_stopping_too() -> None:
    train, validation = examples(24, seed=1, mode="single", noise=2.0), examples(60, seed=2, mode="single", noise=2.0)
    settings = HeadSettings(epochs=40, learning_rate=0.03, decays=False, patience=None)
    fitted = trained(train, validation, settings)
    head, history, best = fitted.head, fitted.history, fitted.best_epoch
    assert len(history["val_loss"]) == 40
    assert best < 35
    shorter = trained(train, validation, replace(settings, epochs=best + 1))
    np.testing.assert_allclose(head.kernel, shorter.head.kernel, rtol=1e-5, atol=1e-7)


def test_unknown_targets_teach_nothing() -> None:
    train, validation = (examples(80, seed=seed, mode="multi") for seed in (1, 2))
    settings = HeadSettings(epochs=4, weight_decay=0.0)
    full = trained(train, validation, settings, mode="multi")
    unknown = Examples(train.features, train.targets.copy())
    unknown.targets[:, 1] = np.nan
    half = trained(unknown, validation, settings, mode="multi").head
    assert (half.kernel[:, 1] == 0).all()
    assert half.bias[1] == 0
    assert abs(half.kernel[:, 0]).max() > 0
    assert abs(full.head.kernel[:, 1]).max() > 0


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_a_seed_reproduces_a_head(mode: Mode) -> None:
    train, validation = examples(80, seed=1, mode=mode), examples(40, seed=2, mode=mode)
    first, again, other = (
        trained(train, validation, HeadSettings(epochs=5), mode=mode, seed=seed) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.head.kernel, again.head.kernel)
    assert first.history == again.history
    assert abs(first.head.kernel - other.head.kernel).max() > 1e-6


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_the_tutorial_is_plain_keras(mode: Mode) -> None:
    train, validation = examples(100, seed=1, mode=mode), examples(40, seed=2, mode=mode)
    found = trained(train, validation, TUTORIAL, mode=mode)

    keras, single = import_keras(), mode == "single"
    keras.utils.set_random_seed(7)
    layer = keras.layers.Dense(train.targets.shape[1], activation="softmax" if single else "sigmoid")
    model = keras.Sequential([keras.Input((WIDTH,)), layer])
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss="categorical_crossentropy" if single else "binary_crossentropy",
        metrics=[keras.metrics.CategoricalAccuracy() if single else keras.metrics.BinaryAccuracy()],
    )
    history = model.fit(*train, validation_data=tuple(validation), epochs=25, batch_size=32, verbose=0).history
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(found.head.kernel, kernel, atol=1e-5)
    np.testing.assert_allclose(found.head.bias, bias, atol=1e-5)
    for ours, theirs in zip(("loss", "acc", "val_loss", "val_acc"), history.values(), strict=True):
        np.testing.assert_allclose(found.history[ours], theirs, rtol=1e-3, atol=1e-5)
    assert found.history["learning_rate"] == [1e-3] * 25
    assert found.best_epoch == 24
    columns = [0, 1, 2] if single else [1, 2]  # in `multi`, `good` comes first and is derived
    answers = probabilities_of(logits_of(found.head, validation.features), classes=CLASSES, mode=mode)
    np.testing.assert_allclose(answers[:, columns], model.predict(validation.features, verbose=0), atol=1e-4)


def test_the_learning_rate_of_each_epoch_is_recorded() -> None:
    train, validation = examples(65, seed=1, mode="multi"), examples(20, seed=2, mode="multi")
    settings = HeadSettings(epochs=4, batch_size=32, learning_rate=0.01, patience=None)
    told = trained(train, validation, settings, mode="multi").history["learning_rate"]
    np.testing.assert_allclose(told, 0.005 * (1 + np.cos(np.pi * np.arange(4) / 4)), rtol=1e-5)
    validation.targets[:] = 1 - validation.targets  # so that training ends early
    ended = trained(train, validation, replace(settings, patience=1), mode="multi").history
    assert len(ended["learning_rate"]) == len(ended["loss"]) < 4


def test_weight_decay_reduces_the_weights_but_not_the_bias() -> None:
    train, validation = examples(60, seed=1, mode="multi"), examples(20, seed=2, mode="multi")
    train.targets[:] = 1.0
    settings = HeadSettings(
        epochs=10, learning_rate=0.02, decays=False, best_epoch=False, class_weights=False, standardised=False
    )
    still = Examples(np.zeros_like(train.features), train.targets)  # only the bias can learn
    free, held = (
        trained(still, validation, replace(settings, weight_decay=decay), mode="multi") for decay in (0.0, 0.9)
    )
    np.testing.assert_allclose(held.head.bias, free.head.bias, rtol=1e-6)
    free, held = (
        trained(train, validation, replace(settings, weight_decay=decay), mode="multi") for decay in (0.0, 0.9)
    )
    assert np.linalg.norm(held.head.kernel) < 0.95 * np.linalg.norm(free.head.kernel)


def test_targets_are_nan_where_the_truth_is_unknown() -> None:
    labels: list[tuple[str, ...]] = [("good",), ("no cap", "pigmented"), ("no cap",)]
    known: NDArray[np.bool_] = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 0]], bool)
    expected = np.array([[0, 0], [1, 1], [1, np.nan]], np.float32)
    np.testing.assert_array_equal(targets_of(labels, CLASSES, "multi", label_mask=known), expected)
    single: list[tuple[str, ...]] = [("good",), ("pigmented",)]
    np.testing.assert_array_equal(targets_of(single, CLASSES, "single", label_mask=known[:2]), [[1, 0, 0], [0, 0, 1]])
