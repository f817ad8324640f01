"""Loading a model: verified, warmed up and measured before it serves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from model_store.bundle.files import Bundle, open_bundle
from model_store.bundle.manifest import IMAGES_BY_BITS_KEY, MANIFEST_FILE
from model_store.registry.store import ModelStore, copy_bundle
from shared.settings import Settings
from tests.worker import kit
from worker.models import loading
from worker.models.loading import as_model, load_bundle, load_model, measure


class Slow(kit.ToneEngine):
    """Remembers the sizes it was warmed up for."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.warmed: list[int] = []

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        self.warmed += batch_sizes


@pytest.mark.parametrize(
    ("name", "background", "warmed"),
    [
        ("litert", False, [1, 16]),
        ("litert", True, [1]),
        ("litert-fp32", True, [1]),
        ("tensorflow-mixed", True, [1, 16]),
        ("tensorflow", True, [1, 16]),  # compiles each shape; that takes seconds, for which no job may wait
    ],
)
def test_which_batch_sizes_are_warmed_up(
    settings: Settings,
    tiny_models: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    background: bool,
    warmed: list[int],
) -> None:
    def opened(bundle: Bundle, kind: str, **options: object) -> Slow:
        assert options["background"] is background
        return Slow(name)

    monkeypatch.setattr(loading, "open_engine", opened)
    loaded = load_bundle(ModelStore(tiny_models).open("tiny"), settings, background=background)
    assert isinstance(loaded.engine, Slow)
    assert loaded.engine.warmed == warmed


def test_a_model_knows_the_cost_of_an_image_before_its_first_job(settings: Settings, tiny_models: Path) -> None:
    loaded = load_bundle(ModelStore(tiny_models).open("tiny"), settings, background=True)
    model = as_model(loaded, settings, worker="w1")
    assert model.cost.estimate(1) == 0.0
    measure(model, batch_sizes=[1])
    assert 0.0 < model.cost.estimate(1) <= model.cost.estimate(16)
    assert not model.cost.is_measured(16)
    measure(model, batch_sizes=[1, 16])
    assert model.cost.is_measured(16)


def test_the_first_run_of_a_size_is_not_measured(
    settings: Settings, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may allocate memory or compile. By its time, a full batch would seem to cost ten times what it does."""
    now, cold = [0.0], {1, 16}

    class Cold(kit.ToneEngine):
        def warm_up(self, batch_sizes: Sequence[int]) -> None:
            for size in batch_sizes:
                now[0] += 5.0 if size in cold else 0.001 * size
                cold.discard(size)

    model = as_model(load_bundle(ModelStore(tiny_models).open("tiny"), settings), settings, worker="w1")
    monkeypatch.setattr(loading.time, "monotonic", lambda: now[0])
    model = replace(model, engine=Cold())
    measure(model, batch_sizes=[1, 16])
    assert model.cost.estimate(1) == pytest.approx(0.001)
    assert model.cost.estimate(16) == pytest.approx(0.016)


def test_images_that_are_read_unlike_in_the_training_are_told(
    settings: Settings, tiny_models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(ModelStore(tiny_models).resolve("tiny"), tmp_path / "version")
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["training"]["settings"][IMAGES_BY_BITS_KEY] = {"12": 3}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    load_bundle(open_bundle(folder), settings.model_copy(update={"sample_bits": 12}))
    assert "sample_bits" not in caplog.text
    load_bundle(open_bundle(folder), settings.model_copy(update={"sample_bits": 16}))
    assert "sample_bits is 16, but tiny@1 was trained on images of 12 bits per sample" in caplog.text


def test_without_a_name_the_only_model_is_served(settings: Settings, tiny_models: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    store.publish("caps", copy_bundle(ModelStore(tiny_models).resolve("tiny"), "caps"))
    unnamed = Settings(redis_url=settings.redis_url, model_store=str(store.root), engine="litert", max_batch=1)
    assert load_model(unnamed).manifest.name == "caps"
