"""Which modules are recognized as known networks, and the outputs of their inner layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_store.backbones import keras_graphs
from model_store.backbones.keras_graphs import ARCHITECTURES, Network, open_network
from model_store.backbones.resolve import Backbone, resolve_backbone
from model_store.runtime.tensorflow_imports import import_hub
from tests.model_store.tiny_backbone import save_tiny_backbone
from tests.model_store.tiny_network import ALPHA, SIZE_PX

pytestmark = pytest.mark.training

IMAGES = np.random.default_rng(6).uniform(0, 1, (3, SIZE_PX, SIZE_PX, 3)).astype(np.float32)


def test_the_network_is_recognized_by_its_weights(tiny_network: Network, network_backbone: Backbone) -> None:
    assert (tiny_network.architecture.name, tiny_network.variant) == ("MobileNetV2", ALPHA)
    module = import_hub().KerasLayer(str(network_backbone.path))
    ours = np.asarray(tiny_network.graph(tiny_network.architecture.normalize(IMAGES * 255), training=False)).mean(
        axis=(1, 2)
    )
    assert np.ptp(ours, axis=0).max() > 0.1, "all images give the same features"
    np.testing.assert_allclose(ours, module(IMAGES), atol=1e-4)


def test_arrays_in_another_order_are_not_recognized(
    network_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, swapped = import_hub(), [0, 0]

    def keras_layer(path: str, trainable: bool) -> Any:
        """Load the module, and swap two arrays of equal shape in its list of arrays."""
        module = hub.KerasLayer(path, trainable=trainable)
        arrays = list(module.resolved_object.variables)
        # These two are the scale and offset of the last batch normalization.
        swapped[:] = [place for place, array in enumerate(arrays) if array.shape == arrays[-1].shape][:2]
        first, second = swapped
        arrays[first], arrays[second] = arrays[second], arrays[first]

        class Layer:
            resolved_object = SimpleNamespace(variables=arrays)

            def __call__(self, images: Any) -> Any:
                return module(images)

        return Layer()

    monkeypatch.setattr(keras_graphs, "import_hub", lambda: SimpleNamespace(KerasLayer=keras_layer))
    mobilenet = replace(keras_graphs.ARCHITECTURES[0], variants=(ALPHA,))
    monkeypatch.setattr(keras_graphs, "ARCHITECTURES", (mobilenet,))
    assert open_network(network_backbone) is None
    assert swapped[0] != swapped[1]


def test_other_modules_stay_opaque(tmp_path: Path) -> None:
    backbone = resolve_backbone(str(save_tiny_backbone(tmp_path / "other")), cache=tmp_path / "cache")
    assert open_network(backbone) is None


def test_inner_layers_share_the_weights_and_clones_do_not(tiny_network: Network) -> None:
    clone = tiny_network.clone()
    features = clone.architecture.feature_layer
    images = ARCHITECTURES[0].normalize(IMAGES * 255)
    before = np.asarray(clone.up_to(features)(images))
    np.testing.assert_array_equal(before, np.asarray(tiny_network.up_to(features)(images)))
    assert before.shape[1:3] == (SIZE_PX // 16, SIZE_PX // 16)
    inner = clone.up_to(features)
    for variable in clone.graph.get_layer("Conv1").trainable_variables:
        variable.assign(variable * 1.5 + 0.1)
    assert not np.allclose(np.asarray(inner(images)), before, atol=0.01)
    np.testing.assert_array_equal(np.asarray(tiny_network.up_to(features)(images)), before)


def test_a_blank_clone_has_its_own_weights(tiny_network: Network) -> None:
    blank = tiny_network.clone(pretrained=False)
    ours, theirs = (network.graph.get_layer("Conv1").get_weights()[0] for network in (tiny_network, blank))
    assert ours.shape == theirs.shape
    assert abs(ours - theirs).mean() > 0.01


@pytest.mark.parametrize(("layer", "cells"), [("localizer_layer", 8), ("teacher_layer", 16)])
def test_layers_have_the_stated_resolution(tiny_network: Network, layer: str, cells: int) -> None:
    shape = tiny_network.up_to(getattr(tiny_network.architecture, layer))(IMAGES).shape
    assert tuple(shape[1:3]) == (SIZE_PX // cells, SIZE_PX // cells)


@pytest.mark.parametrize(
    ("name", "pixels", "normalized"),
    [("MobileNetV2", (0.0, 127.5, 255.0), (-1, 0, 1)), ("EfficientNet-Lite", (-1.0, 127.0, 255.0), (-1, 0, 1))],
)
def test_pixels_are_normalized_as_the_network_takes_them(
    name: str, pixels: tuple[float, ...], normalized: tuple[float, ...]
) -> None:
    (architecture,) = [architecture for architecture in ARCHITECTURES if architecture.name == name]
    np.testing.assert_allclose(architecture.normalize(np.array(pixels)), normalized)
