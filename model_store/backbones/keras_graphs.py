"""Known networks: a backbone rebuilt as a Keras graph, so that its inner layers can be read and fine-tuned.

In: a resolved backbone. Out: a Network if the backbone is one of the architectures below. Otherwise None, and the
backbone stays an opaque module with one output, like most TF-Hub modules.

A fine-tuned MobileNetV2 or InceptionV3 gives the mean of an inner layer, of the bottle cropped and turned upright: a
layer at a sixteenth of the resolution still resolves a cap, and the layers after it need not run. On frames from other
belts than in training, a MobileNetV2 whose last layer was tuned on full frames reached a macro F1 of 0.74, and this one
0.90. EfficientNet-Lite does as well with its last layer and the full frame (docs/decisions/default-model.md).

Frozen features of an inner layer look better on random splits of one set of frames (`multi`, macro F1 0.85 against
0.80), but not on frames from other belts. So a network that stays as it is gives its last layer's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.backbones import efficientnet_lite
from model_store.backbones.resolve import Backbone
from model_store.runtime.native_output import quiet_native
from model_store.runtime.tensorflow_imports import import_hub, import_keras, import_tensorflow
from shared.arrays import Floats

# The largest allowed difference between the outputs of the rebuilt network and of the module. They differ a little
# because their operations run in a different order.
_TOLERANCE = 1e-3
# The momentum of batch normalization in an untrained network. Keras's 0.999 suits a million images: after a few hundred
# steps the statistics would still be close to their initial values, and would spoil the output of the trained network.
_UNTRAINED_MOMENTUM = 0.9


@dataclass(frozen=True)
class Architecture:
    """A family of networks: how to build one, the scaling of its input, and which of its layers are used for what.

    `variants` are the sizes that `build` can build: MobileNetV2's width multipliers, EfficientNet's names. The network
    takes (x - `offset`) / `scale` of pixels x from 0 to 255.

    The localizer, which finds the bottle, reads `localizer_layer`, at an eighth of the resolution. `teacher_layer`, at
    a sixteenth, gives the labels that the localizer is fitted to. The mean of a layer goes to the head: of
    `output_layer`, the last one, if the network stays as it is, and of `feature_layer` if it is fine-tuned. The layers
    after `localizer_layer` are the top layers. `crops_bottle`: the fine-tuned network is better on crops of the bottle.
    """

    name: str
    weights: frozenset[int]  # numbers of weight arrays, without the classifier
    variants: tuple[Any, ...]
    build: Callable[[Any], Any]
    localizer_layer: str
    teacher_layer: str
    feature_layer: str
    output_layer: str
    crops_bottle: bool
    offset: float = 127.5
    scale: float = 127.5

    def normalize(self, pixels: Any) -> Any:
        """Scale pixels from 0..255 as the network takes them."""
        return (pixels - self.offset) / self.scale


def _keras_application(name: str, **options: Any) -> Any:
    """An untrained network of keras.applications that takes images of any size."""
    build = getattr(import_keras().applications, name)
    with quiet_native(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Keras warns that the image size is not fixed; that is intended
        return build(include_top=False, weights=None, input_shape=(None, None, 3), **options)


ARCHITECTURES = (
    Architecture(
        "MobileNetV2",
        frozenset({260}),
        (1.0, 0.75, 0.5, 0.35, 1.3, 1.4),
        lambda alpha: _keras_application("MobileNetV2", alpha=alpha),
        localizer_layer="block_6_expand_relu",
        teacher_layer="block_12_add",
        feature_layer="block_13_expand_relu",
        output_layer="out_relu",
        crops_bottle=True,
    ),
    Architecture(
        "InceptionV3",
        frozenset({376}),
        (1.0,),
        lambda _: _keras_application("InceptionV3"),
        localizer_layer="mixed2",
        teacher_layer="mixed6",
        feature_layer="mixed7",
        output_layer="mixed10",
        crops_bottle=True,
    ),
    Architecture(
        "EfficientNet-Lite",
        frozenset({245, 320}),
        tuple(efficientnet_lite.VARIANTS),
        efficientnet_lite.build,
        localizer_layer="stage_4_block_1_expand_relu",
        teacher_layer="stage_5_block_2_add",
        feature_layer="top_relu",
        output_layer="top_relu",
        crops_bottle=False,
        offset=efficientnet_lite.PIXEL_OFFSET,
        scale=efficientnet_lite.PIXEL_SCALE,
    ),
)


@dataclass(frozen=True)
class Network:
    """A backbone as a Keras graph of images [N, H, W, 3] of any size, with its trained weights.

    The graph takes what `architecture.normalize` returns.
    """

    architecture: Architecture
    graph: Any
    variant: Any  # one of the architecture's variants

    def up_to(self, layer: str) -> Any:
        """A Keras model that outputs this layer's map, [N, h, w, channels]. It shares the graph's weights."""
        return import_keras().Model(self.graph.input, self.graph.get_layer(layer).output)

    def clone(self, *, pretrained: bool = True) -> Network:
        """The same network with weights of its own: a copy, or random ones."""
        graph = self.architecture.build(self.variant)
        if pretrained:
            graph.set_weights(self.graph.get_weights())
        else:
            for layer in graph.layers:
                if hasattr(layer, "momentum"):
                    layer.momentum = _UNTRAINED_MOMENTUM
        return Network(self.architecture, graph, self.variant)


def open_network(backbone: Backbone) -> Network | None:
    """The backbone as a Network; None if its weights or its outputs match none of the architectures."""
    hub = import_hub()
    with quiet_native():
        module = hub.KerasLayer(str(backbone.path), trainable=False)
        arrays = [array.numpy() for array in getattr(module.resolved_object, "variables", [])]
        for architecture in ARCHITECTURES:
            if len(arrays) not in architecture.weights:
                continue
            for variant in architecture.variants:
                network = _rebuild(architecture, variant, arrays)
                if network is not None and _outputs_match(network, module, size_px=backbone.input_size_px):
                    return network
    return None


def _rebuild(architecture: Architecture, variant: Any, arrays: list[Floats]) -> Network | None:
    """The network with these weights; None if their shapes or their order differ."""
    graph = architecture.build(variant)
    if [tuple(weight.shape) for weight in graph.weights] != [array.shape for array in arrays]:
        return None
    graph.set_weights(arrays)
    return Network(architecture, graph, variant)


def _outputs_match(network: Network, module: Any, *, size_px: int) -> bool:
    """Whether the rebuilt network gives the module's outputs: equal shapes do not prove that the order is the same."""
    tf = import_tensorflow()
    images = tf.random.stateless_uniform([2, size_px, size_px, 3], seed=(7, 7))
    scaled = network.architecture.normalize(images * 255.0)
    ours = tf.reduce_mean(network.graph(scaled, training=False), axis=[1, 2])
    theirs = module(images)
    return bool(ours.shape == theirs.shape and np.abs(np.asarray(ours - theirs)).max() <= _TOLERANCE)
