"""Quantization: a SavedModel to LiteRT int8, except for the weights and activations that 8 bits would spoil.

In: a SavedModel and calibration images. Out: the bytes of a `.tflite`. Called by `exporter` only.

The first bottleneck of MobileNetV2 subtracts large numbers from each other; 8-bit steps before it drown the result.
Signal-to-noise ratio of the features, and images/s, on the default backbone and 400 frames (2 cores, noisy machine):
all int8 6.1 dB, 353; with the operators up to the third convolution in float 15.3 dB, 361; up to the ninth 16.4 dB,
426; fp32 about 240. After the third the gain is small, and the operators up to it do only 7 % of the multiplications.
The head, after the last convolution, stays in float as well: that costs nothing, and probabilities then do not move in
steps of 1/256. These figures were measured before `bias_correction`, which adds another 5 dB.

On EfficientNet-Lite0 (full frames, 100 images): all int8 12.4 dB, with the operators up to the third convolution in
float 19.2 dB, with `bias_correction` 23.8 dB, with `equalization` as well 25.0 dB; up to the ninth 26.2 dB, up to the
fifteenth 27.3 dB. The int8 weights alone leave 29.0 dB. The rest of the noise comes from all layers alike, so no few of
them are worth keeping in float.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from model_store.runtime.progress import OnProgress
from model_store.runtime.tensorflow_imports import import_tensorflow
from shared.errors import NotFound
from shared.images.arrays import Pixels

# The ranges of the activations settle after some tens of images; more only take longer (0.1 s each).
CALIBRATION_IMAGES = 64
_STEM_CONVOLUTIONS = 3
_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
_LOOKUPS = frozenset({"GATHER", "GATHER_ND"})  # only `crop_geometry.crop_frames` has them


def check_private_functions() -> None:
    """Check that TensorFlow and LiteRT have the functions that int8 needs and that are not public.

    Called before a training, which would otherwise fail at its end.

    Raises:
        NotFound: one is missing; the message names it.
    """
    tf = import_tensorflow()
    from ai_edge_litert.interpreter import Interpreter
    from tensorflow.lite.python import convert

    needed = {
        "tf.lite.TFLiteConverter._experimental_calibrate_only": hasattr(
            tf.lite.TFLiteConverter([]), "_experimental_calibrate_only"
        ),
        "tensorflow.lite.python.convert.mlir_quantize": hasattr(convert, "mlir_quantize"),
        "ai_edge_litert.interpreter.Interpreter._get_ops_details": hasattr(Interpreter, "_get_ops_details"),
    }
    if missing := [name for name, is_there in needed.items() if not is_there]:
        versions = f"TensorFlow {tf.__version__} and ai-edge-litert {version('ai-edge-litert')}"
        raise NotFound(
            f"int8 can't be exported with {versions}: {' and '.join(missing)} is missing. It is no public function, "
            "so other versions may lack it: install those of Sortline's requirements/dev.lock."
        )


def sensitive_operators(fp32_file: Path) -> list[str]:
    """The names of the operators to keep in float: all up to the stem's end, and those after the last convolution.

    If the model crops the bottle, the stem begins after the crop. Localizing and cropping stay in float too, because
    positions in steps of 1/256 would blur the crop, and because both cost little.

    Empty for a network with only a few convolutions, which has no stem to speak of.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(fp32_file))
    names = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    # No public function gives the operators' names; TensorFlow's own QuantizationDebugger reads them in this way too.
    operators = interpreter._get_ops_details()
    convolutions = [index for index, operator in enumerate(operators) if operator["op_name"] in _CONVOLUTIONS]
    crops = [index for index, operator in enumerate(operators) if operator["op_name"] in _LOOKUPS]
    after_crop = [index for index in convolutions if not crops or index > crops[-1]]
    if len(after_crop) <= 2 * _STEM_CONVOLUTIONS:
        return []
    stem, head = operators[: after_crop[_STEM_CONVOLUTIONS - 1] + 1], operators[convolutions[-1] + 1 :]
    return [names[index] for operator in (*stem, *head) for index in operator["outputs"]]


def measure_ranges(saved_model: str, *, calibration: Pixels, on_progress: OnProgress) -> bytes:
    """The model as float LiteRT, with the ranges of its maps on `calibration`, training images uint8 [N, S, S, 3]."""
    tf = import_tensorflow()
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: _one_by_one(calibration, on_progress)
    # TensorFlow's QuantizationDebugger sets this too. Its public functions would quantize once more, for nothing.
    converter._experimental_calibrate_only = True
    return bytes(converter.convert())


def to_int8(ranged: bytes, *, kept_float: list[str]) -> bytes:
    """Quantize a model that `measure_ranges` returned, except for the operators `kept_float`."""
    from tensorflow.lite.python.convert import mlir_quantize

    return bytes(mlir_quantize(ranged, denylisted_nodes=kept_float or None))


def _one_by_one(images: Pixels, on_progress: OnProgress) -> Iterator[list[Any]]:
    for image in images:
        yield [image[np.newaxis]]
        on_progress(1)
