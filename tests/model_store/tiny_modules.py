"""Small real SavedModels of every kind that a handle may lead to, valid or not. All functions import TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_store.runtime.native_output import quiet_native
from model_store.runtime.tensorflow_imports import import_keras, import_tensorflow

SIZE_PX = 32

Call = Callable[..., Any]


def save_module(
    folder: Path,
    call: Call,
    spec: Any,
    *,
    variables: Sequence[Any] = (),
    trainable: Sequence[Any] = (),
    trainings: Sequence[bool] = (False, True),
) -> Path:
    """Save `call(images, training)` as TF-Hub modules are saved: callable for `trainings`, with its variables."""
    tf = import_tensorflow()
    function = tf.function(call)
    with quiet_native():
        for training in trainings:
            function.get_concrete_function(spec, training=training)
        module = tf.train.Checkpoint()
        module.__call__ = function
        module.variables, module.trainable_variables = list(variables), list(trainable)
        module.regularization_losses = []
        tf.saved_model.save(module, str(folder))
    return folder


def images_spec(size_px: int | None = SIZE_PX, *, batch: int | None = None) -> Any:
    """float32 [batch, size, size, 3]."""
    tf = import_tensorflow()
    return tf.TensorSpec([batch, size_px, size_px, 3], tf.float32)


def save_colors(
    folder: Path,
    *,
    size_px: int | None = SIZE_PX,
    batch: int | None = None,
    width: int = 24,
    trainings: Sequence[bool] = (False, True),
) -> Path:
    """Save a dense layer on the mean color; it takes any size if `size_px` is None."""
    tf = import_tensorflow()
    kernel = tf.Variable(np.random.default_rng(2).normal(0, 3, (3, width)).astype(np.float32))

    def call(images: Any, training: bool = False) -> Any:
        return tf.nn.relu(tf.matmul(tf.reduce_mean(images, axis=[1, 2]), kernel))

    spec = images_spec(size_px, batch=batch)
    return save_module(folder, call, spec, variables=[kernel], trainable=[kernel], trainings=trainings)


def save_classifier(folder: Path, *, classes: int, scores: str = "logits") -> Path:
    """Save convolutions and a dense layer on `classes`: logits, probabilities (softmax) or scores (sigmoid)."""
    tf = import_tensorflow()
    rng = np.random.default_rng(3)
    first = tf.Variable(rng.normal(0, 0.5, (3, 3, 3, 12)).astype(np.float32))
    second = tf.Variable(rng.normal(0, 0.3, (3, 3, 12, 16)).astype(np.float32))
    dense = tf.Variable(rng.normal(0, 6.0, (16, classes)).astype(np.float32))
    activation = {"logits": tf.identity, "probabilities": tf.nn.softmax, "scores": tf.sigmoid}[scores]

    def call(images: Any, training: bool = False) -> Any:
        maps = tf.nn.relu6(tf.nn.conv2d(images * 2.0 - 1.0, first, strides=2, padding="SAME"))
        maps = tf.nn.relu6(tf.nn.conv2d(maps, second, strides=2, padding="SAME"))
        return activation(tf.matmul(tf.reduce_mean(maps, axis=[1, 2]), dense))

    variables = [first, second, dense]
    return save_module(folder, call, images_spec(), variables=variables, trainable=variables)


def save_normalized(folder: Path, *, wants: str = "0..1") -> tuple[Path, Any]:
    """Save a convolution and a batch normalization for images scaled as `wants`; also returns the Keras network."""
    keras, tf = import_keras(), import_tensorflow()
    keras.utils.set_random_seed(1)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((SIZE_PX, SIZE_PX, 3)),
            layers.Conv2D(8, 3, strides=2),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.GlobalAveragePooling2D(),
        ]
    )
    largest, mean = {"0..1": (1.0, 0.5), "-1..1": (2.0, 0.0), "0..255": (255.0, 127.0)}[wants]
    seen = np.random.default_rng(4).normal(mean, largest / 4, (64, SIZE_PX, SIZE_PX, 3)).astype(np.float32)
    maps = network.layers[0](seen)
    normalization = network.layers[1]
    normalization.moving_mean.assign(tf.reduce_mean(maps, axis=[0, 1, 2]))
    normalization.moving_variance.assign(tf.math.reduce_variance(maps, axis=[0, 1, 2]))

    def call(images: Any, training: bool = False) -> Any:
        return network(images, training=training)

    saved = save_module(folder, call, images_spec(), variables=network.variables, trainable=network.trainable_variables)
    return saved, network


def save_keras_whole(folder: Path) -> tuple[Path, Any]:
    """Let Keras itself save a network, without its scaling; also returns the network."""
    _, network = save_normalized(folder.parent / f"{folder.name}-unused", wants="-1..1")
    with quiet_native():
        network.save(str(folder))
    return folder, network


def save_text(folder: Path) -> Path:
    """Save a module that takes strings."""
    tf = import_tensorflow()
    weight = tf.Variable(np.ones((1, 4), np.float32))

    def call(texts: Any, training: bool = False) -> Any:
        return tf.cast(tf.strings.length(texts), tf.float32)[:, tf.newaxis] * weight

    return save_module(folder, call, tf.TensorSpec([None], tf.string), variables=[weight])


def save_serving_only(folder: Path) -> Path:
    """Save a signature without a callable, like a TF1 SavedModel or a serving export."""
    tf = import_tensorflow()
    module = tf.Module()
    module.weight = tf.Variable(np.ones((3, 4), np.float32))
    serve = tf.function(lambda images: {"out": tf.matmul(tf.reduce_mean(images, axis=[1, 2]), module.weight)})
    with quiet_native():
        tf.saved_model.save(module, str(folder), signatures=serve.get_concrete_function(images_spec()))
    return folder
