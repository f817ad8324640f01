"""Backbones whose inside is known: the same network as a Keras graph, so that inner layers can be read and tuned.

In: a resolved backbone. Out: a Network, where the backbone is one of the architectures below; else None, and the
backbone stays a closed box with one output (most TF-Hub modules are).

Why the inside matters (bottle frames, 5 splits, frozen backbone, `single` accuracy / `multi` macro F1):

    the module's output, whole frame (the tutorial's way)      0.69 / 0.80
    the mean of block_13_expand, whole frame                   0.76 / 0.85
    the module's output, bottle cut out and set upright        0.78 / 0.84
    the mean of block_13_expand, cut out and upright           0.84 / 0.87   and with the top layers tuned 0.90 / 0.94
    means of four layers side by side, cut out and upright     0.78 / 0.85
    mean and maximum, or the two ends of the bottle apart      no better than the mean alone

A layer at a sixteenth of the resolution still sees a cap; the last one knows what ImageNet's classes look like. And
what lies behind it need not be run: cutting out, finding the bottle included, costs less than the whole network did.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.backbones.resolve import Backbone
from model_store.runtime.native_output import quiet_native
from model_store.runtime.tensorflow_imports import import_hub, import_keras, import_tensorflow

# How far the rebuilt network may be from the module: float rounding of another order of operations.
_SAME = 1e-3
# Of a blank network's batch normalisations. Keras's 0.999 is for a million images: after some hundred steps the
# statistics would still be those they started with, and a network that learnt would answer as if it hadn't.
_BLANK_MOMENTUM = 0.9
_ALPHAS = {"MobileNetV2": (1.0, 0.75, 0.5, 0.35, 1.3, 1.4), "InceptionV3": (1.0,)}


@dataclass(frozen=True)
class Architecture:
    """Which layers of a network from `keras.applications` serve for what.

    `located` is read by the bottle's finder, at an eighth of the resolution; `taught` teaches it, at a sixteenth.
    The mean of `features` goes to the head. Layers after `located` are the top ones.
    """

    name: str
    weights: int  # arrays of the network without its classifier
    located: str
    taught: str
    features: str


ARCHITECTURES = (
    Architecture("MobileNetV2", 260, "block_6_expand_relu", "block_12_add", "block_13_expand_relu"),
    Architecture("InceptionV3", 376, "mixed2", "mixed6", "mixed7"),
)


@dataclass(frozen=True)
class Network:
    """A backbone as a Keras graph of images [N, H, W, 3] from -1 to 1, of any size, with its trained weights."""

    architecture: Architecture
    graph: Any
    alpha: float  # MobileNetV2's width multiplier; 1 for the others

    def up_to(self, layer: str) -> Any:
        """A Keras model that gives this layer's map, [N, h, w, channels]. Shares the graph's weights."""
        return import_keras().Model(self.graph.input, self.graph.get_layer(layer).output)

    @property
    def feature_width(self) -> int:
        """Channels of the layer that the head sees."""
        return int(self.graph.get_layer(self.architecture.features).output.shape[-1])

    def clone(self, *, pretrained: bool = True) -> Network:
        """The same network with weights of its own: a copy, or freshly drawn ones."""
        graph = _graph(self.architecture.name, self.alpha)
        if pretrained:
            graph.set_weights(self.graph.get_weights())
        else:
            for layer in graph.layers:
                if hasattr(layer, "momentum"):
                    layer.momentum = _BLANK_MOMENTUM
        return Network(self.architecture, graph, self.alpha)


def open_network(backbone: Backbone) -> Network | None:
    """The backbone as a Network; None where it is none of the architectures, told by its weights and its answers."""
    hub = import_hub()
    with quiet_native():
        module = hub.KerasLayer(str(backbone.path), trainable=False)
        arrays = [array.numpy() for array in getattr(module.resolved_object, "variables", [])]
        for architecture in ARCHITECTURES:
            if architecture.weights != len(arrays):
                continue
            for alpha in _ALPHAS[architecture.name]:
                network = _rebuilt(architecture, alpha, arrays)
                if network is not None and _agree(network, module, size_px=backbone.input_size_px):
                    return network
    return None


def unit_range(pixels: Any) -> Any:
    """Pixels from 0 to 255 as the architectures above take them: from -1 to 1."""
    return pixels / 127.5 - 1.0


def _rebuilt(architecture: Architecture, alpha: float, arrays: list[NDArray[np.float32]]) -> Network | None:
    """The network with these weights; None where their shapes or order are others."""
    graph = _graph(architecture.name, alpha)
    if [tuple(weight.shape) for weight in graph.weights] != [array.shape for array in arrays]:
        return None
    graph.set_weights(arrays)
    return Network(architecture, graph, alpha)


def _agree(network: Network, module: Any, *, size_px: int) -> bool:
    """Whether the rebuilt network answers as the module does: equal shapes alone could be in another order."""
    tf = import_tensorflow()
    images = tf.random.stateless_uniform([2, size_px, size_px, 3], seed=(7, 7))
    ours = tf.reduce_mean(network.graph(images * 2.0 - 1.0, training=False), axis=[1, 2])
    theirs = module(images)
    return bool(ours.shape == theirs.shape and np.abs(np.asarray(ours - theirs)).max() <= _SAME)


def _graph(name: str, alpha: float) -> Any:
    """An untrained network that takes images of any size."""
    applications = import_keras().applications
    kind: dict[str, Any] = {"include_top": False, "weights": None, "input_shape": (None, None, 3)}
    with quiet_native(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the shape is free, which is what is asked for
        if name == "MobileNetV2":
            return applications.MobileNetV2(alpha=alpha, **kind)
        return getattr(applications, name)(**kind)
