"""EfficientNet-Lite as a Keras graph: lite0, lite1 and lite2, with the weights of a PyTorch checkpoint.

In: the name of a variant, and the arrays of a checkpoint by their PyTorch names. Out: a Keras graph, and its weights.

The networks are those of Google's EfficientNet-Lite (2020): MobileNetV2's blocks with other widths, depths and kernel
sizes; ReLU6 everywhere; no squeeze-and-excite, so that they suit int8. Stem and top are the same in all variants.

    stem                          a half of the image's size
    stage_1 … stage_7             stages 2, 3, 4 and 6 halve it again; stage_4 ends at a sixteenth
    top                           1,280 channels at a thirty-second
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from model_store.runtime.tensorflow_imports import import_keras
from shared.arrays import Floats
from shared.errors import BadBackbone

FEATURE_WIDTH = 1280
# The networks take (x - 127) / 128 of pixels x from 0 to 255.
PIXEL_OFFSET, PIXEL_SCALE = 127.0, 128.0
_STEM_FILTERS = 32
# As TensorFlow's EfficientNet has it; PyTorch's and Keras's defaults differ.
_BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Variant:
    """One size of the network: the image size it was trained at, and how much wider and deeper than lite0 it is."""

    size_px: int
    width: float
    depth: float


VARIANTS = {
    "lite0": Variant(224, 1.0, 1.0),
    "lite1": Variant(240, 1.0, 1.1),
    "lite2": Variant(260, 1.1, 1.2),
}


class _Stage(NamedTuple):
    """A row of the EfficientNet paper's table 1 (arXiv:1905.11946)."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    filters: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)

# What PyTorch calls the layers of a block, and the layers outside of blocks.
_TORCH_BLOCK_LAYERS = {
    "expand": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project": "_project_conv",
    "project_bn": "_bn2",
}
_TORCH_LAYERS = {"stem": "_conv_stem", "stem_bn": "_bn0", "top": "_conv_head", "top_bn": "_bn1", "classifier": "_fc"}
# Counts training steps; serving does not need it.
_TORCH_UNUSED = "num_batches_tracked"


def build(variant: str, *, classes: int | None = None) -> Any:
    """An untrained network of images float32 [N, H, W, 3], scaled to (x - 127) / 128 for x from 0 to 255; any size.

    Returns:
        A Keras model that gives the last map, [N, h, w, 1280]; with `classes` the logits, [N, classes].
    """
    keras, spec = import_keras(), VARIANTS[variant]
    images = keras.Input((None, None, 3), name="images")
    x = _convolved(images, "stem", filters=_STEM_FILTERS, kernel=3, stride=2)
    for number, stage in enumerate(_scaled_stages(spec), start=1):
        for block in range(1, stage.blocks + 1):
            stride = stage.stride if block == 1 else 1
            x = _block(x, f"stage_{number}_block_{block}", stage, stride=stride)
    x = _convolved(x, "top", filters=FEATURE_WIDTH, kernel=1)
    if classes is not None:
        x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
        x = keras.layers.Dense(classes, name="classifier")(x)
    return keras.Model(images, x, name=f"efficientnet_{variant}")


def weights_from_torch(arrays: Mapping[str, Floats], graph: Any, *, origin: str) -> list[Floats]:
    """The weights of a network that `build` returned, in its order, from a PyTorch checkpoint's arrays.

    The classifier's arrays may be left over; no others.

    Raises:
        BadBackbone: an array is missing, left over, or has another shape; names it, and `origin`.
    """
    found, used = [], set()
    for layer, block in _layers_with_weights(graph):
        for weight, suffix in zip(layer.weights, _torch_suffixes(layer.name), strict=True):
            name = f"{_torch_layer(layer.name, block)}.{suffix}"
            if name not in arrays:
                raise BadBackbone(f"{origin} has no array {name}: it is not the checkpoint of this network.")
            array = _as_keras(arrays[name], layer.name)
            if array.shape != tuple(weight.shape):
                raise BadBackbone(f"{origin}: the array {name} has the shape {array.shape}, not {tuple(weight.shape)}.")
            found.append(array)
            used.add(name)
    left_over = [
        name for name in arrays if name not in used and not name.startswith("_fc.") and not name.endswith(_TORCH_UNUSED)
    ]
    if left_over:
        raise BadBackbone(f"{origin} has an array {left_over[0]} that this network has not.")
    return found


def _scaled_stages(variant: Variant) -> Iterator[_Stage]:
    """The stages of a variant. The lite networks keep the depth of the first and the last stage."""
    for index, stage in enumerate(_STAGES):
        is_scaled = 0 < index < len(_STAGES) - 1
        blocks = math.ceil(stage.blocks * variant.depth) if is_scaled else stage.blocks
        yield stage._replace(blocks=blocks, filters=_multiple_of_8(stage.filters * variant.width))


def _multiple_of_8(filters: float) -> int:
    """The nearest multiple of 8, but not less than 90 % of it."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def _block(x: Any, name: str, stage: _Stage, *, stride: int) -> Any:
    """An inverted bottleneck: expand, filter each channel by itself, project. Added to its input if shapes agree."""
    layers, start = import_keras().layers, x
    if stage.expansion != 1:
        x = _convolved(x, f"{name}_expand", filters=x.shape[-1] * stage.expansion, kernel=1)
    x = layers.DepthwiseConv2D(stage.kernel, stride, "same", use_bias=False, name=f"{name}_depthwise")(x)
    x = _activated(_normalized(x, f"{name}_depthwise"), f"{name}_depthwise")
    x = layers.Conv2D(stage.filters, 1, padding="same", use_bias=False, name=f"{name}_project")(x)
    x = _normalized(x, f"{name}_project")
    return layers.Add(name=f"{name}_add")([start, x]) if stride == 1 and start.shape[-1] == stage.filters else x


def _convolved(x: Any, name: str, *, filters: int, kernel: int, stride: int = 1) -> Any:
    layers = import_keras().layers
    x = layers.Conv2D(filters, kernel, stride, "same", use_bias=False, name=name)(x)
    return _activated(_normalized(x, name), name)


def _normalized(x: Any, name: str) -> Any:
    return import_keras().layers.BatchNormalization(epsilon=_BATCH_NORM_EPSILON, name=f"{name}_bn")(x)


def _activated(x: Any, name: str) -> Any:
    return import_keras().layers.ReLU(6.0, name=f"{name}_relu")(x)


def _layers_with_weights(graph: Any) -> Iterator[tuple[Any, int]]:
    """The layers in the graph's order, each with the number of its block, counted over all stages from 0."""
    blocks: list[str] = []
    for layer in graph.layers:
        if not layer.weights:
            continue
        stage_and_block = layer.name.split("_")[:4]
        if stage_and_block[0] == "stage" and stage_and_block not in blocks:
            blocks.append(stage_and_block)
        yield layer, len(blocks) - 1


def _torch_layer(name: str, block: int) -> str:
    if name in _TORCH_LAYERS:
        return _TORCH_LAYERS[name]
    return f"_blocks.{block}.{_TORCH_BLOCK_LAYERS[name.split('_', 4)[4]]}"


def _torch_suffixes(name: str) -> tuple[str, ...]:
    """PyTorch's names of a layer's weights, in Keras's order."""
    if name.endswith("_bn"):
        return ("weight", "bias", "running_mean", "running_var")
    return ("weight", "bias") if name == "classifier" else ("weight",)


def _as_keras(array: Floats, name: str) -> Floats:
    """A kernel in Keras's order of axes: PyTorch has [out, in, height, width], and [out, 1, h, w] if depthwise."""
    if array.ndim == 4:
        axes = (2, 3, 0, 1) if name.endswith("_depthwise") else (2, 3, 1, 0)
        return np.ascontiguousarray(array.transpose(axes))
    return np.ascontiguousarray(array.T) if array.ndim == 2 else array
