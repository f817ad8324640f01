"""The correction against the real converter and the real interpreter, on networks with a known error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.export.bias_correction import correct_biases
from model_store.export.quantization import measure_ranges, to_int8
from model_store.runtime.tensorflow_imports import import_tensorflow, quiet_native

pytestmark = pytest.mark.training

SIZE_PX = 16
IMAGES = np.random.default_rng(3).integers(0, 256, (24, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def kernel(*shape: int) -> NDArray[np.float32]:
    """Small weights, each just above half a quantization step; one large weight sets the scale of each channel.

    All the small weights are rounded up, so that the channel's mean is off by the sum of their errors.
    """
    values = np.full(shape, 0.6 / 127, np.float32)
    values[0, 0, 0] = 1.0
    return values


def convert(layer: Any, folder: Any) -> tuple[bytes, bytes]:
    """(fp32, int8) of uint8 images -> scaled -> `layer` -> the mean of each channel."""
    tf = import_tensorflow()

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE_PX, SIZE_PX, 3], tf.uint8, "images")])
    def serve(images: Any) -> Any:
        return {"means": tf.reduce_mean(layer(tf, tf.cast(images, tf.float32) / 255.0), axis=[1, 2])}

    module = tf.Module()
    module.serve = serve
    with quiet_native():
        tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
        fp32 = bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert())
        ranged = measure_ranges(str(folder), calibration=IMAGES, on_progress=lambda _: None)
        int8 = to_int8(ranged, kept_float=[])
    return fp32, int8


def means(model: bytes) -> NDArray[np.float32]:
    """The model's answers, averaged over the images, [channels]."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    (image,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for one in IMAGES:
        interpreter.set_tensor(image["index"], one[np.newaxis])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(answer["index"])[0])
    scale, zero = answer["quantization"]
    found = np.mean(answers, axis=0)
    return np.asarray((found - zero) * scale if scale else found, np.float32)


def plain(tf: Any, images: Any) -> Any:
    return tf.nn.conv2d(images, kernel(3, 3, 3, 4), 1, "VALID") + 0.25


def depthwise(tf: Any, images: Any) -> Any:
    return tf.nn.depthwise_conv2d(images, kernel(3, 3, 3, 1), [1, 1, 1, 1], "VALID") + 0.25


def grouped(tf: Any, images: Any) -> Any:
    six = tf.concat([images, 0.2 * images], axis=3)
    return tf.nn.conv2d(six, kernel(3, 3, 3, 4), 1, "VALID") + 0.25


@pytest.mark.parametrize("layer", [plain, depthwise, grouped])
def test_the_mean_error_of_rounded_weights_is_corrected(layer: Any, tmp_path: Any) -> None:
    fp32, int8 = convert(layer, tmp_path)
    heard: list[int] = []
    mended = correct_biases(int8, fp32=fp32, images=IMAGES, on_progress=heard.append)
    before, after = np.abs(means(int8) - means(fp32)).max(), np.abs(means(mended) - means(fp32)).max()
    assert after < before / 4
    assert len(mended) == len(int8)
    assert sum(heard) == len(IMAGES)


def test_weights_kept_in_float_are_left_alone(tmp_path: Any) -> None:
    fp32, _ = convert(plain, tmp_path)
    assert correct_biases(fp32, fp32=fp32, images=IMAGES[:2], on_progress=lambda _: None) == fp32


def test_files_of_different_networks_are_refused(tmp_path: Any) -> None:
    def twice(tf: Any, images: Any) -> Any:
        return plain(tf, tf.nn.relu6(plain(tf, images))[..., :3])

    fp32, _ = convert(twice, tmp_path / "twice")
    _, int8 = convert(plain, tmp_path / "once")
    with pytest.raises(ValueError, match="zip"):
        correct_biases(int8, fp32=fp32, images=IMAGES[:2], on_progress=lambda _: None)
