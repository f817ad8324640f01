"""Equalization against the real converter and interpreter, on networks with channels of very different size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.export.equalization import equalize
from model_store.export.quantization import measure_ranges, to_int8
from model_store.runtime.tensorflow_imports import import_tensorflow, quiet_native
from shared.arrays import Floats

pytestmark = pytest.mark.training

SIZE_PX, CHANNELS = 16, 8
RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (24, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
# The last channels are far smaller than the first, and matter as much.
SIZES = np.geomspace(1.0, 0.02, CHANNELS).astype(np.float32)


def weights(*shape: int) -> Floats:
    return RNG.normal(0, 0.4, shape).astype(np.float32)


EXPAND, DEPTHWISE, PROJECT = weights(1, 1, 3, CHANNELS), weights(3, 3, CHANNELS, 1), weights(1, 1, CHANNELS, CHANNELS)
READ, DENSE = weights(1, 1, CHANNELS, CHANNELS), weights(CHANNELS, 4)


def bottlenecks(tf: Any, x: Any) -> Any:
    """A map that is added to another, and read by two convolutions; ReLU6 and a depthwise convolution around them."""
    x = tf.nn.relu6(tf.nn.conv2d(x, EXPAND, 1, "VALID") + 0.5)
    x = tf.nn.relu6(tf.nn.depthwise_conv2d(x, DEPTHWISE, [1, 1, 1, 1], "VALID") + 0.4)
    first = tf.nn.conv2d(x, PROJECT * SIZES, 1, "VALID") + 0.1 * SIZES
    second = tf.nn.conv2d(first, READ / SIZES[:, None] * SIZES, 1, "VALID") + 0.2 * SIZES
    x = tf.nn.relu6(tf.nn.conv2d(first + second, READ / SIZES[:, None], 1, "VALID") + 0.3)
    return tf.matmul(tf.reduce_mean(x, axis=[1, 2]), DENSE)


def read_by_others(tf: Any, x: Any) -> Any:
    """A map that is read by a layer that can't scale its channels."""
    x = tf.nn.relu6(tf.nn.conv2d(x, EXPAND * SIZES, 1, "VALID") + 0.1 * SIZES)
    return tf.reduce_max(x, axis=[1, 2]) + tf.reduce_mean(tf.nn.conv2d(x, PROJECT, 1, "VALID") + 0.1, axis=[1, 2])


def ranged(network: Callable[[Any, Any], Any], folder: Path) -> bytes:
    """The network of uint8 images, in float, with the ranges of its maps."""
    tf = import_tensorflow()

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE_PX, SIZE_PX, 3], tf.uint8, "images")])
    def serve(images: Any) -> Any:
        return {"answers": network(tf, tf.cast(images, tf.float32) / 127.5 - 1.0)}

    module = tf.Module()
    module.serve = serve
    with quiet_native():
        tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
        return measure_ranges(str(folder), calibration=IMAGES, on_progress=lambda _: None)


def answers(model: bytes) -> Floats:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    (image,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for one in IMAGES:
        interpreter.set_tensor(image["index"], one[np.newaxis])
        interpreter.invoke()
        found.append(interpreter.get_tensor(answer["index"])[0])
    return np.array(found, np.float32)


def error(one: Floats, other: Floats) -> float:
    """The difference's share of the answers' variation."""
    return float(np.sqrt(((one - other) ** 2).mean()) / other.std())


def test_equalized_channels_give_the_same_answers_and_lose_less_in_8_bits(tmp_path: Path) -> None:
    plain = ranged(bottlenecks, tmp_path)
    heard: list[int] = []
    equalized = equalize(plain, images=IMAGES, on_progress=heard.append)
    assert sum(heard) == len(IMAGES)
    assert len(equalized) == len(plain)
    assert equalized != plain
    exact = answers(plain)
    assert error(answers(equalized), exact) < 1e-5
    with quiet_native():
        before, after = (answers(to_int8(model, kept_float=[])) for model in (plain, equalized))
    assert error(after, exact) < error(before, exact) / 2


def test_a_map_that_another_layer_reads_stays_as_it_is(tmp_path: Path) -> None:
    plain = ranged(read_by_others, tmp_path)
    assert equalize(plain, images=IMAGES, on_progress=lambda _: None) == plain
