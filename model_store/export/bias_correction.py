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

import numpy as np

from model_store.export.litert_graph import LiteRTGraph, measure_maps
from model_store.runtime.progress import OnProgress
from shared.arrays import Floats
from shared.images.arrays import Pixels


def correct_biases(int8: bytes, *, fp32: bytes, images: Pixels, on_progress: OnProgress) -> bytes:
    """The int8 model with corrected biases; operators that it keeps in float stay as they are.

    Args:
        fp32: the same network, not quantized.
        images: uint8 [N, S, S, 3], on which the fp32 model's input means are measured.

    Raises:
        ValueError: the files don't have the same convolutions.
    """
    patched = bytearray(int8)
    quantized, original = LiteRTGraph(patched), LiteRTGraph(fp32)
    inputs = [layer.inputs[0] for layer in original.convolutions]
    statistics = measure_maps(fp32, inputs, images, on_progress)
    for ours, theirs in zip(quantized.convolutions, original.convolutions, strict=True):
        kernel, bias = ours.inputs[1:3]
        if not quantized.is_type(kernel, np.int8) or quantized.is_shared(bias):
            continue
        axis = int(quantized.quantization(kernel).QuantizedDimension())
        error = original.values(theirs.inputs[1]) - _dequantized(quantized, kernel, axis=axis)
        steps = _mean_shift(error, statistics[theirs.inputs[0]].mean, axis=axis) / _scales(quantized, bias)
        quantized.values(bias, np.int32)[:] += np.round(steps).astype(np.int32)
    return bytes(patched)


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


def _dequantized(graph: LiteRTGraph, kernel: int, *, axis: int) -> Floats:
    """The int8 weights as floats; they are symmetric, with one scale per output channel."""
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    return np.asarray(graph.values(kernel, np.int8) * _scales(graph, kernel).reshape(shape), np.float32)


def _scales(graph: LiteRTGraph, tensor: int) -> Floats:
    return np.asarray(graph.quantization(tensor).ScaleAsNumpy(), np.float32)
