"""Bias correction: removes the mean error of quantized weights through the biases of an int8 model.

In: the int8 and the fp32 `.tflite` of one network, and training images. Out: the int8 file with corrected biases.
Called by `exporter` only.

Quantizing a convolution's weights shifts the mean of each output channel by (the weights' errors) x (the mean of its
input). ReLU6 inputs are never negative, so the shifts do not average out; they are most of the damage of 8-bit weights.
They are known in advance, so the bias can compensate for them: Nagel et al. 2019, "Data-Free Quantization Through
Weight Equalization and Bias Correction", section 4.2, here with measured instead of derived means. On the default
backbone this raises the features' signal to noise from 16.3 to 21.2 dB, at no cost in speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.runtime.progress import OnProgress
from shared.arrays import Floats
from shared.images.arrays import Pixels


def correct_biases(int8: bytes, *, fp32: bytes, images: Pixels, on_progress: OnProgress) -> bytes:
    """The int8 model with corrected biases; operators that it keeps in float stay as they are.

    Args:
        fp32: the same network, converted without quantization.
        images: uint8 [N, S, S, 3], on which the fp32 model's input means are measured.

    Raises:
        ValueError: the files don't have the same convolutions.
    """
    from ai_edge_litert import schema_py_generated as schema

    patched = bytearray(int8)  # biases are overwritten in place, so everything else stays as the converter wrote it
    quantized, float_model = schema.Model.GetRootAs(patched, 0), schema.Model.GetRootAs(fp32, 0)
    float_convolutions = list(_convolutions(schema, float_model))
    means = _input_means(fp32, [operator.Inputs(0) for operator in float_convolutions], images, on_progress)
    graph = quantized.Subgraphs(0)
    readers = Counter(graph.Tensors(index).Buffer() for index in range(graph.TensorsLength()))
    for ours, theirs, mean in zip(_convolutions(schema, quantized), float_convolutions, means, strict=True):
        kernel, bias = graph.Tensors(ours.Inputs(1)), graph.Tensors(ours.Inputs(2))
        if kernel.Type() != schema.TensorType.INT8 or readers[bias.Buffer()] > 1:
            continue
        float_kernel = _values(float_model, float_model.Subgraphs(0).Tensors(theirs.Inputs(1)), np.float32)
        shift = _mean_shift(float_kernel - _dequantized(quantized, kernel), mean, axis=_channel_axis(kernel))
        steps = shift / bias.Quantization().ScaleAsNumpy()
        _values(quantized, bias, np.int32)[:] += np.round(steps).astype(np.int32)
    return bytes(patched)


def _convolutions(schema: Any, model: Any) -> Iterator[Any]:
    """The convolutions with a bias, in the order in which they run."""
    kinds = schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D
    graph = model.Subgraphs(0)
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        # The schema's rule: codes below 127 are in the old field, larger ones in the new.
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind in kinds and operator.InputsLength() > 2 and operator.Inputs(2) >= 0:
            yield operator


def _input_means(fp32: bytes, tensors: list[int], images: Pixels, on_progress: OnProgress) -> list[Floats]:
    """The mean of each of these tensors [1, H, W, channels] over all images and positions, [channels]."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=fp32,
        experimental_preserve_all_tensors=True,
        # XNNPACK would not expose the tensors between operators.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    image_index = interpreter.get_input_details()[0]["index"]
    sums = [np.float32(0)] * len(tensors)
    for image in images:
        interpreter.set_tensor(image_index, image[np.newaxis])
        interpreter.invoke()
        sums = [
            total + interpreter.get_tensor(index).mean(axis=(0, 1, 2))
            for total, index in zip(sums, tensors, strict=True)
        ]
        on_progress(1)
    return [np.asarray(total / len(images), np.float32) for total in sums]


def _mean_shift(error: Floats, mean: Floats, *, axis: int) -> Floats:
    """The correction of each output channel, [outputs].

    Args:
        error: float minus quantized weights: [outputs, h, w, inputs of a group], or [1, h, w, outputs] (depthwise).
        mean: the mean of each input channel, [inputs].
        axis: the axis of the outputs in `error`: 0, or 3 for depthwise.
    """
    if axis == 3:
        return np.asarray(error.sum(axis=(0, 1, 2)) * np.repeat(mean, error.shape[3] // len(mean)))
    groups = len(mean) // error.shape[3]
    means = np.repeat(mean.reshape(groups, -1), len(error) // groups, axis=0)
    return np.asarray((error.sum(axis=(1, 2)) * means).sum(axis=1))


def _channel_axis(kernel: Any) -> int:
    return int(kernel.Quantization().QuantizedDimension())


def _dequantized(model: Any, kernel: Any) -> Floats:
    """The int8 model's weights as floats; they are symmetric, with one scale per output channel."""
    shape = [1, 1, 1, 1]
    shape[_channel_axis(kernel)] = -1
    scales = kernel.Quantization().ScaleAsNumpy().reshape(shape)
    return np.asarray(_values(model, kernel, np.int8) * scales, np.float32)


def _values(model: Any, tensor: Any, dtype: Any) -> NDArray[Any]:
    """A constant tensor as a view into the file's bytes."""
    data = model.Buffers(tensor.Buffer()).DataAsNumpy()
    return np.asarray(data.view(dtype).reshape(tensor.ShapeAsNumpy()))
