"""Features of frozen layers: computed once, and never from all images at once."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.datasets.lazy_images import LazySubset, Rows
from model_store.training import augmentation, feature_cache
from model_store.training.feature_cache import FeatureCache, crop_batches, extract_features
from model_store.training.feature_extractor import FeatureExtractor, opaque_extractor
from tests.model_store.conftest import CachedModule
from tests.model_store.tiny_backbone import SIZE_PX

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def extractor(opaque_module: CachedModule) -> FeatureExtractor:
    return opaque_extractor(opaque_module.resolved())


def frames(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, SIZE_PX, SIZE_PX, 3)).astype(np.uint8)


def test_features_are_computed_once(
    extractor: FeatureExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = frames(5)
    first = FeatureCache(extractor, cache=tmp_path).features(images, on_progress=lambda _: None)
    again = FeatureCache(extractor, cache=tmp_path)
    asked: list[int] = []
    run = again._run
    monkeypatch.setattr(again, "_run", lambda batch: asked.append(len(batch)) or run(batch))
    np.testing.assert_array_equal(again.features(images[::-1], on_progress=lambda _: None), first[::-1])
    assert asked == []
    cached = next((tmp_path / "features").rglob("*.npy"))
    cached.write_bytes(cached.read_bytes()[:50])
    np.testing.assert_allclose(again.features(images, on_progress=lambda _: None), first, atol=1e-5)
    assert asked == [1]


def test_features_that_cant_be_cached_are_used_nevertheless(
    extractor: FeatureExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", f"tmp{next(number)}")

    images, number = frames(5), itertools.count()
    monkeypatch.setattr(np, "save", full)
    for _ in range(2):
        found = FeatureCache(extractor, cache=tmp_path).features(images, on_progress=lambda _: None)
        np.testing.assert_allclose(found, extract_features(extractor, images), atol=1e-5)
    (warning,) = caplog.messages
    assert f"can't be cached in {tmp_path / 'features'}: No space left on device." in warning
    assert not [path for path in (tmp_path / "features").rglob("*") if path.is_file()]


class Watched(LazySubset):
    """Images that note how many are read at once."""

    asked: list[int] = []  # noqa: RUF012 - used by one test only

    def __getitem__(self, part: Rows) -> NDArray[np.uint8]:
        found = super().__getitem__(part)
        self.asked.append(len(found))
        return found


def test_images_are_copied_in_batches(
    extractor: FeatureExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "BATCH_SIZE", 4)
    rows = np.arange(10)[::-1]
    images, told = frames(10), list[int]()
    watched = Watched(images, rows)
    cached = FeatureCache(extractor, cache=tmp_path).features(watched, on_progress=told.append)
    computed = extract_features(extractor, watched)
    assert watched.asked == [4, 4, 2] * 2
    assert told == [4, 4, 2]
    expected = np.asarray(extractor.features(images[rows]))
    np.testing.assert_allclose(cached, expected, atol=1e-5)
    np.testing.assert_allclose(computed, expected, atol=1e-5)


def test_augmented_crops_differ_by_seed(extractor: FeatureExtractor) -> None:
    images = frames(3)
    (plain,) = crop_batches(extractor, images)
    np.testing.assert_array_equal(plain, images)
    augmented = [
        np.concatenate(list(crop_batches(extractor, images, random=augmentation.random_generator(seed))))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(augmented[0], augmented[1])
    assert augmented[0].dtype == np.uint8
    assert not np.array_equal(augmented[0], plain)
    assert not np.array_equal(augmented[0], augmented[2])
