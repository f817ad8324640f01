"""Reads and changes a `.tflite` file in memory: its layers, their weights, and statistics of the maps between them.

In: the bytes of a file. Changes are made in place, so that everything else stays as the converter wrote it.
Called by `bias_correction` and `equalization`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.runtime.progress import OnProgress
from shared.arrays import Floats
from shared.images.arrays import Pixels

LayerKind = Literal["convolution", "depthwise", "addition", "mean", "dense", "other"]


class Layer(NamedTuple):
    """An operator of the graph. Inputs and outputs are indices of tensors; -1 is an input that is not there."""

    kind: LayerKind
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: str  # of convolutions and additions: NONE, RELU6, …


class MapStatistics(NamedTuple):
    """Over all images and positions of a map [1, H, W, channels], each [channels]."""

    mean: Floats
    lowest: Floats
    highest: Floats


class LiteRTGraph:
    """The graph of a `.tflite` file."""

    def __init__(self, content: bytes | bytearray) -> None:
        """Give a bytearray to change it."""
        from ai_edge_litert import schema_py_generated as schema

        self._schema: Any = schema
        self._model: Any = schema.Model.GetRootAs(content, 0)
        self._graph: Any = self._model.Subgraphs(0)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, in the order in which they run."""
        return tuple(self._layer(self._graph.Operators(index)) for index in range(self._graph.OperatorsLength()))

    @cached_property
    def outputs(self) -> frozenset[int]:
        """The tensors that the model returns."""
        return frozenset(self._graph.Outputs(index) for index in range(self._graph.OutputsLength()))

    @cached_property
    def readers(self) -> dict[int, list[Layer]]:
        """The layers that read each tensor."""
        found = defaultdict(list)
        for layer in self.layers:
            for tensor in layer.inputs:
                found[tensor].append(layer)
        return found

    @property
    def convolutions(self) -> tuple[Layer, ...]:
        """The convolutions with a bias, in the order in which they run."""
        return tuple(
            layer
            for layer in self.layers
            if layer.kind in ("convolution", "depthwise") and len(layer.inputs) > 2 and layer.inputs[2] >= 0
        )

    def rank(self, tensor: int) -> int:
        """The number of the tensor's dimensions."""
        return int(self._graph.Tensors(tensor).ShapeLength())

    def is_shared(self, tensor: int) -> bool:
        """Whether another tensor has the same values in the file: changing one changes the other."""
        return self._uses[self._graph.Tensors(tensor).Buffer()] > 1

    @cached_property
    def _uses(self) -> Counter[int]:
        return Counter(self._graph.Tensors(index).Buffer() for index in range(self._graph.TensorsLength()))

    def is_type(self, tensor: int, dtype: type[np.generic]) -> bool:
        """Whether the tensor's values are of this type."""
        number = getattr(self._schema.TensorType, np.dtype(dtype).name.upper())
        return bool(self._graph.Tensors(tensor).Type() == number)

    def values(self, tensor: int, dtype: type[np.generic] = np.float32) -> NDArray[Any]:
        """A constant tensor as a view into the file's bytes."""
        found = self._graph.Tensors(tensor)
        data = self._model.Buffers(found.Buffer()).DataAsNumpy()
        return np.asarray(data.view(dtype).reshape(found.ShapeAsNumpy()))

    def quantization(self, tensor: int) -> Any:
        """The schema's QuantizationParameters of a tensor."""
        return self._graph.Tensors(tensor).Quantization()

    def _layer(self, operator: Any) -> Layer:
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        # The schema's rule: codes below 127 are in the old field, larger ones in the new.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        kind, options = self._kinds.get(number, ("other", None))
        return Layer(
            kind,
            tuple(operator.Inputs(index) for index in range(operator.InputsLength())),
            tuple(operator.Outputs(index) for index in range(operator.OutputsLength())),
            self._activation(operator, options),
        )

    @cached_property
    def _kinds(self) -> dict[int, tuple[LayerKind, Any]]:
        """By the schema's number of a kind of operator: ours, and the schema's class of its options."""
        schema = self._schema
        code = schema.BuiltinOperator
        return {
            code.CONV_2D: ("convolution", schema.Conv2DOptions),
            code.DEPTHWISE_CONV_2D: ("depthwise", schema.DepthwiseConv2DOptions),
            code.ADD: ("addition", schema.AddOptions),
            code.MEAN: ("mean", None),
            code.FULLY_CONNECTED: ("dense", schema.FullyConnectedOptions),
        }

    def _activation(self, operator: Any, options: Any) -> str:
        table = operator.BuiltinOptions()
        if options is None or table is None:
            return "NONE"
        found = options()
        found.Init(table.Bytes, table.Pos)
        names = {number: name for name, number in vars(self._schema.ActivationFunctionType).items() if name.isupper()}
        return str(names[found.FusedActivationFunction()])


def measure_maps(
    content: bytes, tensors: list[int], images: Pixels, on_progress: OnProgress
) -> dict[int, MapStatistics]:
    """Statistics of these tensors of a float model, each [1, H, W, channels].

    Args:
        images: uint8 [N, S, S, 3], what the model takes.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        # XNNPACK would not expose the tensors between operators.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    image_index = interpreter.get_input_details()[0]["index"]
    found: dict[int, MapStatistics] = {}
    for image in images:
        interpreter.set_tensor(image_index, image[np.newaxis])
        interpreter.invoke()
        for tensor in set(tensors):
            values, share = interpreter.get_tensor(tensor), np.float32(1 / len(images))
            mean, lowest, highest = (getattr(values, name)(axis=(0, 1, 2)) for name in ("mean", "min", "max"))
            before = found.get(tensor, MapStatistics(np.float32(0) * mean, lowest, highest))
            found[tensor] = MapStatistics(
                before.mean + mean * share, np.minimum(before.lowest, lowest), np.maximum(before.highest, highest)
            )
        on_progress(1)
    return found
