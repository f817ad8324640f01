"""The checked-in tiny models equal those that their program makes, on any machine and TensorFlow release."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.bundle.files import Bundle, open_bundle
from model_store.bundle.golden import read_golden
from model_store.engines.golden_check import INT8_TOLERANCE
from model_store.engines.loading import open_engine
from model_store.engines.protocol import EngineKind
from model_store.registry.store import ModelStore
from tests.model_store.tiny_bundle import MODES, TINY_MODELS, publish_tiny_bundles, random_images

pytestmark = pytest.mark.training

TOLERANCES: dict[EngineKind, float] = {"litert-fp32": 1e-5, "tensorflow": 1e-5, "litert": INT8_TOLERANCE}


@pytest.fixture(scope="module")
def made_again(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    store = ModelStore(tmp_path_factory.mktemp("made-again"))
    publish_tiny_bundles(store)
    return store


@pytest.fixture(params=MODES)
def pair(request: pytest.FixtureRequest, made_again: ModelStore) -> tuple[Bundle, Bundle]:
    """A checked-in bundle, and the same made again."""
    checked_in, again = (open_bundle(store.resolve(request.param)) for store in (ModelStore(TINY_MODELS), made_again))
    return checked_in, again


def test_the_manifest_is_the_same(pair: tuple[Bundle, Bundle]) -> None:
    checked_in, again = (bundle.manifest.model_dump(exclude={"created_at", "files"}) for bundle in pair)
    assert checked_in == again
    assert pair[0].manifest.files.keys() == pair[1].manifest.files.keys()


@pytest.mark.parametrize("engine", TOLERANCES)
def test_every_engine_answers_the_same(pair: tuple[Bundle, Bundle], engine: EngineKind) -> None:
    images = random_images(20, seed=2)
    checked_in, again = (open_engine(bundle, engine, threads=1, max_batch=20).predict(images) for bundle in pair)
    np.testing.assert_allclose(checked_in, again, atol=TOLERANCES[engine])


def test_the_golden_answers_are_the_same(pair: tuple[Bundle, Bundle]) -> None:
    checked_in, again = (read_golden(bundle) for bundle in pair)
    np.testing.assert_array_equal(checked_in.images, again.images)
    np.testing.assert_allclose(checked_in.float32, again.float32, atol=TOLERANCES["litert-fp32"])
    np.testing.assert_allclose(checked_in.int8, again.int8, atol=INT8_TOLERANCE)


def test_the_tiny_models_stay_small() -> None:
    """Every clone contains them, in all versions that they ever had."""
    assert sum(path.stat().st_size for path in TINY_MODELS.rglob("*")) < 250_000
