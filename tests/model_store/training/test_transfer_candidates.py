"""Which crops a training measures, and which layer it reads: before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_store.backbones.keras_graphs import ARCHITECTURES, Network
from model_store.backbones.resolve import Backbone
from model_store.runtime.progress import ProgressSteps
from model_store.training import transfer
from model_store.training.feature_extractor import FeatureExtractor
from model_store.training.object_localizer import ObjectLocalizer
from model_store.training.plan import TransferOptions
from model_store.training.transfer import train_model
from tests.model_store.tiny_network import SIZE_PX, colored_frames

pytestmark = pytest.mark.training

NONE, AUTO, TOP = (TransferOptions(fine_tune=method) for method in ("none", "auto", "top"))


class Stopped(Exception):
    """Raised in place of the measuring; holds the extractors that would be measured."""

    def __init__(self, extractors: Sequence[FeatureExtractor]) -> None:
        super().__init__()
        self.extractors = extractors


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The localizers that were fitted, in place of real ones; training stops before it uses them."""
    made: list[object] = []

    def fit(*_: Any, **__: Any) -> object:
        made.append(object())
        return made[-1]

    def stop(_: Any, extractors: Sequence[FeatureExtractor]) -> None:
        raise Stopped(extractors)

    monkeypatch.setattr(ObjectLocalizer, "fit", fit)
    monkeypatch.setattr(transfer, "_features_by_crop", stop)
    return made


def extractors(network: Network, backbone: Backbone, options: TransferOptions, *, images: int) -> list[Any]:
    train, validation = (colored_frames(count, seed=count, size_px=SIZE_PX) for count in (images, 3))
    with pytest.raises(Stopped) as stopped:
        train_model(
            backbone,
            network,
            train=train,
            validation=validation,
            classes=("good", "no cap", "pigmented"),
            mode="single",
            options=options,
            cache=Path("unused"),
            steps=ProgressSteps(),
        )
    return list(stopped.value.extractors)


@pytest.mark.parametrize(
    ("options", "images", "crops_bottle", "crops", "is_last_layer"),
    [
        (NONE, 80, True, ["full"], True),
        (AUTO, 59, True, ["full"], True),
        (replace(NONE, crop="detected"), 9, True, ["detected"], True),
        (AUTO, 60, True, ["detected", "full"], False),
        (TOP, 9, True, ["detected", "full"], False),
        (replace(TOP, crop="full"), 9, True, ["full"], False),
        (AUTO, 60, False, ["full"], False),
        (TOP, 9, False, ["full"], False),
        (replace(TOP, crop="detected"), 9, False, ["detected"], False),
    ],
)
def test_the_crops_and_the_layer_depend_on_the_method_and_the_architecture(
    options: TransferOptions,
    images: int,
    crops_bottle: bool,
    crops: list[str],
    is_last_layer: bool,
    tiny_network: Network,
    network_backbone: Backbone,
    fitted: list[object],
) -> None:
    network = replace(tiny_network, architecture=replace(tiny_network.architecture, crops_bottle=crops_bottle))
    found = extractors(network, network_backbone, options, images=images)
    assert [extractor.crop for extractor in found] == crops
    assert len(fitted) == crops.count("detected"), "a localizer is fitted for nothing"
    architecture = network.architecture
    layer = architecture.output_layer if is_last_layer else architecture.feature_layer
    width = network.graph.get_layer(layer).output.shape[-1]
    assert [extractor.feature_width for extractor in found] == [width] * len(crops)


def test_only_networks_that_gain_from_it_look_for_the_bottle_by_themselves() -> None:
    crops_bottle = {architecture.name: architecture.crops_bottle for architecture in ARCHITECTURES}
    assert crops_bottle == {"MobileNetV2": True, "InceptionV3": True, "EfficientNet-Lite": False}
