"""How a model looks at a frame: which view it takes of it, and which features it sees there.

In: frames, uint8 [N, S, S, 3]. Out: features, float32 [N, width]. What training learns from and what is exported are
the same functions; so training and serving can't differ.

    closed box    any TF-Hub module: the whole frame, at the module's size, its one output
    network       a backbone with a known inside: the whole frame, or the bottle cut out and set upright;
                  the mean of an inner layer
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from model_store.backbones.keras_graphs import Network, unit_range
from model_store.backbones.resolve import Backbone
from model_store.runtime.native_output import quiet_native
from model_store.runtime.tensorflow_imports import import_hub, import_tensorflow
from model_store.training import object_localizer as finders
from model_store.training.cropping import SQUARE, UPRIGHT, Canvas, cut, upright, whole_frame
from model_store.training.object_localizer import Finder

_LEAST_FRAME_PX, _MOST_FRAME_PX = 224, 320


class Body(Protocol):
    """What computes features."""

    def __call__(self, pixels: Any, *, training: bool) -> Any:
        """Features, float32 [N, feature_width], of pixels [N, height, width, 3] from 0 to 255."""


@dataclass(frozen=True)
class Sight:
    """A way to look at frames of one size.

    `variables` are what `body` is made of, input first, and `top` those of its top layers. `finder` is None where the
    whole frame is looked at; `locate` then is too.
    """

    canvas: Canvas
    feature_width: int
    body: Body
    variables: Sequence[Any]
    digest: str  # of the body's weights when it was made, and its layer: what its features depend on
    top: Sequence[Any] = ()
    network: Network | None = None
    finder: Finder | None = None
    locate: Any = None
    keep: tuple[Any, ...] = field(default=(), repr=False)  # what an exported module has to track

    @property
    def region(self) -> str:
        """`found` around the bottle, or the `whole` frame."""
        return "whole" if self.finder is None else "found"

    def views(self, frames: Any) -> Any:
        """The view taken of each frame, [N, 6]; see `views`."""
        tf = import_tensorflow()
        if self.finder is None:
            return whole_frame(tf.shape(frames)[0])
        return upright(self.finder.heat(self.locate(finders.shrunk(frames), training=False)), self.canvas)

    def pixels(self, frames: Any) -> Any:
        """What is looked at: float32 [N, height, width, 3] from 0 to 255."""
        tf = import_tensorflow()
        if self.finder is None and tuple(frames.shape[1:3]) == tuple(self.canvas):
            return tf.cast(frames, tf.float32)
        return cut(frames, self.views(frames), self.canvas)

    def features(self, frames: Any) -> Any:
        """Features of frames uint8 [N, S, S, 3], float32 [N, feature_width]."""
        return self.body(self.pixels(frames), training=False)


def closed_box(backbone: Backbone, *, trainable: bool = False) -> Sight:
    """The module as TF-Hub means it to be used, through `hub.KerasLayer`."""
    hub = import_hub()
    with quiet_native():
        layer = hub.KerasLayer(str(backbone.path), trainable=trainable)
    size_px = backbone.input_size_px

    def body(pixels: Any, *, training: bool) -> Any:
        return layer(pixels / 255.0, training=training)

    return Sight(
        canvas=Canvas(size_px, size_px),
        feature_width=backbone.feature_width,
        body=body,
        variables=layer.trainable_variables,
        digest=backbone.sha256,
        keep=(layer,),
    )


def inside(network: Network, *, finder: Finder | None, located_by: Network | None = None) -> Sight:
    """The mean of the network's inner layer, of the bottle that `finder` finds, or of the whole frame.

    `located_by` is the network that the finder was taught on, where it is another.
    """
    tf = import_tensorflow()
    architecture = network.architecture
    graph = network.up_to(architecture.features)

    def body(pixels: Any, *, training: bool) -> Any:
        return tf.reduce_mean(graph(unit_range(pixels), training=training), axis=[1, 2])

    located = {id(variable) for variable in network.up_to(architecture.located).trainable_variables}
    # The finder reads the weights that it was taught on, whatever becomes of the network's later.
    locate = None if finder is None else (located_by or network).clone().up_to(architecture.located)
    return Sight(
        canvas=SQUARE if finder is None else UPRIGHT,
        feature_width=network.feature_width,
        body=body,
        variables=graph.trainable_variables,
        top=[variable for variable in graph.trainable_variables if id(variable) not in located],
        digest=_digest(graph, architecture.features),
        network=network,
        finder=finder,
        locate=locate,
        keep=(graph, locate),
    )


def _digest(graph: Any, layer: str) -> str:
    """Of the weights themselves: a network that was tuned, or never taught, sees something else than its backbone."""
    digest = hashlib.sha256(layer.encode())
    for array in graph.get_weights():
        digest.update(array.tobytes())
    return digest.hexdigest()


def frame_size_px(sizes: Sequence[tuple[int, int]]) -> int:
    """The side to decode frames at for a sight that cuts out: the usual longer side, within bounds, in steps of 32.

    Args:
        sizes: width and height of some of the dataset's images, at least one.

    More pixels than the frames have are of no use; more than 320 hardly reach the canvas, and cost decoding time.
    """
    usual = float(np.median([max(size) for size in sizes]))
    return int(np.clip(round(usual / 32) * 32, _LEAST_FRAME_PX, _MOST_FRAME_PX))
