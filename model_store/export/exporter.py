"""Exports a trained head with its extractor as files: SavedModel, LiteRT fp32, LiteRT int8.

All three take uint8 [N, S, S, 3] with any N and give float32 [N, C], one column per class. Scaling the pixels is part
of the model. In `multi` the column of `good` is the product of (1 - p) over the defects, computed in the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_store.bundle.manifest import FP32_FILE, INT8_FILE, SAVED_MODEL_DIR
from model_store.bundle.policy import GOOD
from model_store.export import bias_correction, equalization, quantization
from model_store.runtime.native_output import quiet_native
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.calibration import Calibration
from model_store.training.feature_extractor import FeatureExtractor
from model_store.training.head import Head, outputs_of
from shared.images.arrays import Pixels


def serving_module(extractor: FeatureExtractor, head: Head, calibration: Calibration, *, size_px: int) -> Any:
    """The whole model as a tf.Module with one traced function, `serve`, for frames of side `size_px`."""
    tf = import_tensorflow()
    weights = calibration.fold_into_dense(head.kernel, head.bias)
    kernel, bias = (tf.Variable(values, trainable=False) for values in weights)

    def serve(images: Any) -> dict[str, Any]:
        logits = tf.matmul(extractor.features(images), kernel) + bias
        return {"probabilities": _probabilities(tf, logits, head)}

    module = tf.Module()
    module.parts = [part for part in extractor.tracked if part is not None]
    module.kernel, module.bias = kernel, bias
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, size_px, size_px, 3], tf.uint8, "images")])
    return module


def export(module: Any, folder: Path, *, calibration: Pixels, steps: ProgressSteps) -> None:
    """Write the three models into `folder`.

    Args:
        calibration: uint8 [N, S, S, 3], training images, for the int8 model's ranges and bias corrections.
    """
    tf = import_tensorflow()
    saved_model = str(folder / SAVED_MODEL_DIR)
    with steps.step("Exporting the SavedModel"), quiet_native():
        tf.saved_model.save(module, saved_model, signatures={"serving_default": module.serve})
    with steps.step("Exporting LiteRT fp32"), quiet_native():
        (folder / FP32_FILE).write_bytes(tf.lite.TFLiteConverter.from_saved_model(saved_model).convert())
    (folder / INT8_FILE).write_bytes(_int8(saved_model, folder / FP32_FILE, images=calibration, steps=steps))


def _int8(saved_model: str, fp32_file: Path, *, images: Pixels, steps: ProgressSteps) -> bytes:
    """The int8 model, measured on these training images."""
    kept_float = quantization.sensitive_operators(fp32_file)
    with steps.step("Exporting LiteRT int8", total=len(images)) as on_progress, quiet_native():
        ranged = quantization.measure_ranges(saved_model, calibration=images, on_progress=on_progress)
    with steps.step("Equalizing the channels", total=len(images)) as on_progress, quiet_native():
        equalized = equalization.equalize(ranged, images=images, on_progress=on_progress)
        quantized = quantization.to_int8(equalized, kept_float=kept_float)
    with steps.step("Correcting the int8 biases", total=len(images)) as on_progress, quiet_native():
        return bias_correction.correct_biases(quantized, fp32=equalized, images=images, on_progress=on_progress)


def _probabilities(tf: Any, logits: Any, head: Head) -> Any:
    if head.mode == "single":
        return tf.nn.softmax(logits)
    defects = tf.sigmoid(logits)
    good = tf.reduce_prod(1.0 - defects, axis=1, keepdims=True)
    outputs = outputs_of(head.classes, head.mode)
    # Sliced, not split: the int8 converter quantizes an operator with several outputs even if it was told to keep it in
    # float.
    columns = {name: defects[:, index : index + 1] for index, name in enumerate(outputs)} | {GOOD: good}
    return tf.concat([columns[name] for name in head.classes], axis=1)
