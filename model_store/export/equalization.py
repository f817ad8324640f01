"""Equalization: scales the channels of a network's maps so that 8 bits suit each of them. The answers stay the same.

In: a float `.tflite` with the ranges of its maps, and images. Out: the same network, with other weights and ranges.
Called by `exporter` only.

An int8 map has one step size for all its channels. A channel that uses a tenth of the map's range has a tenth of the
256 steps. But a channel may be scaled up by the layer that writes it, if the layers that read it scale it down again:
the weights of a convolution have a step size of their own for each output channel, so this costs little or nothing. See
Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1. Here the
channels' ranges are measured. Only maps that no ReLU6 cuts off are scaled: a channel that is scaled up below a ReLU6
would lose what other images show above the largest measured value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from model_store.export.litert_graph import Layer, LayerKind, LiteRTGraph, MapStatistics, measure_maps
from model_store.runtime.progress import OnProgress
from shared.arrays import Floats
from shared.images.arrays import Pixels

# A channel is scaled up at most by this factor.
_LARGEST_FACTOR = 16.0
# Channels below this carry nothing.
_SMALLEST_VALUE = 1e-6


class _Reader(NamedTuple):
    """Weights that the channels of a map are multiplied with."""

    kind: LayerKind
    weights: int

    @property
    def is_free(self) -> bool:
        """Whether scaling the weights costs no precision: each channel has a step size of its own, or is in float."""
        return self.kind != "convolution"


class _Group(NamedTuple):
    """Maps that must be scaled alike, because they are added to each other, and what writes and reads them."""

    maps: tuple[int, ...]
    writers: tuple[Layer, ...]
    readers: tuple[_Reader, ...]


def equalize(model: bytes, *, images: Pixels, on_progress: OnProgress) -> bytes:
    """The network with scaled channels. Maps beside a layer of an unknown kind stay as they are.

    Args:
        model: float, with the ranges of its maps, as `quantization.measure_ranges` returns it.
        images: uint8 [N, S, S, 3], on which the channels' ranges are measured.
    """
    patched = bytearray(model)
    graph = LiteRTGraph(patched)
    groups = list(_groups(graph))
    statistics = measure_maps(model, [tensor for group in groups for tensor in group.maps], images, on_progress)
    for group in groups:
        factors = _factors(graph, group, [statistics[tensor] for tensor in group.maps])
        _scale(graph, group, factors)
        for tensor in group.maps:
            _set_range(graph, tensor, statistics[tensor], factors)
    return bytes(patched)


def _groups(graph: LiteRTGraph) -> Iterator[_Group]:
    """The groups that can be scaled."""
    writers = {layer.outputs[0]: layer for layer in graph.layers if _writes_map(graph, layer)}
    group_of = {tensor: tensor for tensor in writers}
    for layer in writers.values():  # those of one group get the same number
        for tensor in layer.inputs if layer.kind == "addition" else ():
            old, new = group_of.get(tensor, tensor), group_of[layer.outputs[0]]
            group_of = {each: new if number == old else number for each, number in group_of.items()} | {tensor: new}
    maps = defaultdict(list)
    for tensor, number in group_of.items():
        maps[number].append(tensor)
    for tensors in maps.values():
        if (group := _understood(graph, tensors, writers)) is not None:
            yield group


def _writes_map(graph: LiteRTGraph, layer: Layer) -> bool:
    return layer.kind in ("convolution", "depthwise", "addition") and graph.rank(layer.outputs[0]) == 4


def _understood(graph: LiteRTGraph, maps: list[int], writers: dict[int, Layer]) -> _Group | None:
    """The group of these maps; None if they can't be scaled."""
    if graph.outputs.intersection(maps) or not all(tensor in writers for tensor in maps):
        return None
    layers = [writers[tensor] for tensor in maps]
    added = [layer for layer in layers if layer.kind == "addition"]
    convolutions = [layer for layer in layers if layer.kind != "addition"]
    if not convolutions or not all(layer.activation == "NONE" for layer in layers):
        return None
    if not all(layer in graph.convolutions and _is_own(graph, *layer.inputs[1:3]) for layer in convolutions):
        return None
    channels = graph.values(convolutions[0].inputs[2]).size
    readers = [
        _reader(graph, layer, channels=channels)
        for tensor in maps
        for layer in graph.readers[tensor]
        if layer not in added
    ]
    if not readers or None in readers:
        return None
    return _Group(tuple(maps), tuple(convolutions), tuple(reader for reader in readers if reader is not None))


def _reader(graph: LiteRTGraph, layer: Layer, *, channels: int) -> _Reader | None:
    """How this layer reads a map of so many channels; None if it is of an unknown kind."""
    kind = layer.kind
    if kind == "mean":  # over the positions, as in a head
        after = graph.readers[layer.outputs[0]]
        if len(after) != 1 or after[0].kind != "dense":
            return None
        layer, kind = after[0], "dense"
    if kind not in ("convolution", "depthwise", "dense"):
        return None
    weights = layer.inputs[1]
    # A grouped convolution, or a depthwise one that multiplies channels, has other shapes.
    is_usual = _is_own(graph, weights) and graph.values(weights).shape[-1] == channels
    return _Reader(kind, weights) if is_usual else None


def _is_own(graph: LiteRTGraph, *tensors: int) -> bool:
    """Whether these are float weights that no other layer has as well."""
    return all(
        graph.is_type(tensor, np.float32) and not graph.is_shared(tensor) and len(graph.readers[tensor]) == 1
        for tensor in tensors
    )


def _factors(graph: LiteRTGraph, group: _Group, statistics: list[MapStatistics]) -> Floats:
    """The numbers to multiply the channels with, [channels]."""
    largest = np.max([np.maximum(each.highest, -each.lowest) for each in statistics], axis=0)
    factors = np.where(largest > _SMALLEST_VALUE, largest.max() / np.maximum(largest, _SMALLEST_VALUE), 1.0)
    if not all(reader.is_free for reader in group.readers):
        # A half each for the map and for the weights, whose step size is that of the largest weight.
        factors = np.sqrt(factors)
    return np.clip(factors, 1.0, _LARGEST_FACTOR).astype(np.float32)


def _scale(graph: LiteRTGraph, group: _Group, factors: Floats) -> None:
    for layer in group.writers:
        kernel, bias = (graph.values(tensor) for tensor in layer.inputs[1:3])
        kernel *= factors if layer.kind == "depthwise" else factors[:, None, None, None]
        bias *= factors
    for reader in group.readers:
        graph.values(reader.weights)[:] /= factors


def _set_range(graph: LiteRTGraph, tensor: int, statistics: MapStatistics, factors: Floats) -> None:
    quantization = graph.quantization(tensor)
    quantization.MinAsNumpy()[:] = (statistics.lowest * factors).min()
    quantization.MaxAsNumpy()[:] = (statistics.highest * factors).max()
