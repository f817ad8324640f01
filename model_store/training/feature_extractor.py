"""The feature extractor: which crop of a frame the network gets, and which of its layers is read.

In: frames, uint8 [N, S, S, 3]. Out: features, float32 [N, width]. Training and the exported model use the same
functions, so they cannot differ.

    opaque module     any TF-Hub module: the full frame, at the module's input size, and its only output
    known network     a backbone whose layers are known (`keras_graphs.Network`): the full frame, or the detected
                      bottle, cropped and turned upright; the mean of an inner layer
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone
from model_store.runtime.native_output import quiet_native
from model_store.runtime.tensorflow_imports import import_hub, import_tensorflow
from model_store.training.crop_geometry import (
    FULL_FRAME_SIZE,
    UPRIGHT_SIZE,
    CropSize,
    crop_frames,
    full_frame_transforms,
    upright_transforms,
)
from model_store.training.object_localizer import ObjectLocalizer, resize_frames

# `detected`: the bottle, cropped and turned upright; `full`: the full frame.
Crop = Literal["detected", "full"]

_MIN_FRAME_PX, _MAX_FRAME_PX = 224, 320


class FeatureFn(Protocol):
    """Computes features of pixels."""

    def __call__(self, pixels: Any, *, training: bool) -> Any:
        """Features, float32 [N, feature_width], of pixels [N, height, width, 3] from 0 to 255."""


@dataclass(frozen=True)
class FeatureExtractor:
    """Computes features of frames of one size.

    Attributes:
        crop_size: the size of the pixels that `feature_fn` takes.
        feature_width: the number of features per image.
        feature_fn: computes the features.
        variables: the trainable variables of `feature_fn`, starting with those of the input layer.
        digest: SHA-256 of what the features depend on: the layer and the weights of `feature_fn` when it was made.
        top_variables: those of `variables` that belong to the top layers.
        network: None for an opaque module.
        localizer: finds the bottle; None where the full frame is used.
        localizer_graph: computes the feature map that the localizer reads; None where the full frame is used.
        tracked: the objects that an exported tf.Module has to track.
    """

    crop_size: CropSize
    feature_width: int
    feature_fn: FeatureFn
    variables: Sequence[Any]
    digest: str
    top_variables: Sequence[Any] = ()
    network: Network | None = None
    localizer: ObjectLocalizer | None = None
    localizer_graph: Any = None
    tracked: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def crop(self) -> Crop:
        """Which part of a frame it uses."""
        return "full" if self.localizer is None else "detected"

    def crop_transforms(self, frames: Any) -> Any:
        """The crop transform of each frame, [N, 6]; see `crop_geometry`."""
        tf = import_tensorflow()
        if self.localizer is None:
            return full_frame_transforms(tf.shape(frames)[0])
        assert self.network is not None  # a localizer needs a known network
        maps = self.localizer_graph(resize_frames(frames, self.network.architecture), training=False)
        return upright_transforms(self.localizer.heatmap(maps), self.crop_size)

    def pixels(self, frames: Any) -> Any:
        """The crops' pixels: float32 [N, height, width, 3] from 0 to 255."""
        tf = import_tensorflow()
        if self.localizer is None:
            # The same pixels as `crop_frames` gives with `full_frame_transforms`, in a ninth of its time in LiteRT.
            return tf.image.resize(tf.cast(frames, tf.float32), tuple(self.crop_size))
        return crop_frames(frames, self.crop_transforms(frames), self.crop_size)

    def features(self, frames: Any) -> Any:
        """Features of frames uint8 [N, S, S, 3], float32 [N, feature_width]."""
        return self.feature_fn(self.pixels(frames), training=False)


def opaque_extractor(backbone: Backbone, *, trainable: bool = False) -> FeatureExtractor:
    """An extractor that uses the module as TF-Hub intends, through `hub.KerasLayer`."""
    hub = import_hub()
    with quiet_native():
        layer = hub.KerasLayer(str(backbone.path), trainable=trainable)
    size_px = backbone.input_size_px

    def feature_fn(pixels: Any, *, training: bool) -> Any:
        return layer(pixels / 255.0, training=training)

    return FeatureExtractor(
        crop_size=CropSize(size_px, size_px),
        feature_width=backbone.feature_width,
        feature_fn=feature_fn,
        variables=layer.trainable_variables,
        digest=backbone.sha256,
        tracked=(layer,),
    )


def graph_extractor(
    network: Network,
    *,
    localizer: ObjectLocalizer | None,
    localizer_network: Network | None = None,
    frozen: bool = False,
) -> FeatureExtractor:
    """An extractor that averages a layer of the network, for the detected bottle or for the full frame.

    Args:
        network: computes the features.
        frozen: the network stays as it is, so the last layer is read. Features of an inner layer are better on frames
            like those that the head learns from, and worse on frames from other belts.
        localizer: finds the bottle; None to use the full frame.
        localizer_network: the network that the localizer was fitted on, if it is not `network`.
    """
    tf = import_tensorflow()
    architecture = network.architecture
    layer = architecture.output_layer if frozen else architecture.feature_layer
    graph = network.up_to(layer)

    def feature_fn(pixels: Any, *, training: bool) -> Any:
        return tf.reduce_mean(graph(architecture.normalize(pixels), training=training), axis=[1, 2])

    lower = {id(variable) for variable in network.up_to(architecture.localizer_layer).trainable_variables}
    # A copy: the localizer needs the weights that it was fitted on, and fine-tuning changes the network's.
    fitted_on = None if localizer is None else (localizer_network or network).clone()
    localizer_graph = fitted_on and fitted_on.up_to(architecture.localizer_layer)
    return FeatureExtractor(
        crop_size=FULL_FRAME_SIZE if localizer is None else UPRIGHT_SIZE,
        feature_width=int(graph.output.shape[-1]),
        feature_fn=feature_fn,
        variables=graph.trainable_variables,
        top_variables=[variable for variable in graph.trainable_variables if id(variable) not in lower],
        digest=_digest(graph, layer),
        network=network,
        localizer=localizer,
        localizer_graph=localizer_graph,
        # Not the graphs: Keras would trace each of their layers once more for the SavedModel, which nobody calls.
        tracked=(*graph.weights, *(localizer_graph.weights if localizer_graph else ())),
    )


def _digest(graph: Any, layer: str) -> str:
    """SHA-256 of the layer's name and of the weights themselves.

    A fine-tuned or untrained network gives other features than the backbone that it came from.
    """
    digest = hashlib.sha256(layer.encode())
    for array in graph.get_weights():
        digest.update(array.tobytes())
    return digest.hexdigest()


def frame_size_px(sizes: Sequence[tuple[int, int]]) -> int:
    """The side to decode frames at for an extractor that crops: the median longer side, in steps of 32, within bounds.

    Args:
        sizes: width and height of some of the dataset's images, at least one.

    More pixels than the images have are useless. More than 320 hardly change the crop, and cost decoding time.
    """
    usual = float(np.median([max(size) for size in sizes]))
    return int(np.clip(round(usual / 32) * 32, _MIN_FRAME_PX, _MAX_FRAME_PX))
