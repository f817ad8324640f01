"""Engines on real model files: they agree with each other, refuse wrong files and batches, and import little."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import model_store.engines.loading as engines
from model_store.bundle.files import Bundle, file_digests, open_bundle
from model_store.bundle.golden import read_golden
from model_store.bundle.manifest import FP32_FILE, GOLDEN_FILE, INT8_FILE, MANIFEST_FILE, SAVED_MODEL_DIR
from model_store.bundle.policy import Mode
from model_store.engines.loading import open_engine, resolve_engine_name
from model_store.engines.protocol import Engine, EngineKind, EngineName
from model_store.engines.validation import check_answer
from model_store.registry.store import ModelStore
from shared.errors import BadBundle, EngineFailed, NotFound
from tests.kit import run_python
from tests.model_store.tiny_bundle import random_images

pytestmark = pytest.mark.training

# More than one, because an engine with a single thread has only one interpreter.
THREADS = 2
STEADY: tuple[EngineName, ...] = ("litert", "litert-fp32", "tensorflow")
EVERY: tuple[EngineName, ...] = (*STEADY, "tensorflow-mixed")


@pytest.fixture(scope="module")
def opened(tiny_bundle: Path) -> dict[str, Engine]:
    bundle = open_bundle(tiny_bundle)
    return {name: open_engine(bundle, name, threads=THREADS, max_batch=4) for name in EVERY}


def with_new_digests(bundle: Path) -> Path:
    """Update the manifest's digests after files have changed, as an attacker or a careless person would."""
    values = json.loads((bundle / MANIFEST_FILE).read_text())
    values["files"] = file_digests(bundle)
    (bundle / MANIFEST_FILE).write_text(json.dumps(values))
    return bundle


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_each_image_gets_its_own_answer_whatever_the_batch(opened: dict[str, Engine], name: str, count: int) -> None:
    engine = opened[name]
    images = random_images(count, seed=count)
    answers = engine.predict(images)
    assert answers.dtype == np.float32
    assert answers.shape == (count, engine.classes_count)
    alone = np.concatenate([engine.predict(images[index : index + 1]) for index in range(count)])
    np.testing.assert_allclose(answers, alone, atol=1e-3 if name == "tensorflow-mixed" else 1e-6)


@pytest.mark.parametrize("mode", ["multi", "single"])
def test_the_engines_agree(tiny_store: ModelStore, mode: Mode) -> None:
    bundle = open_bundle(tiny_store.resolve("tiny" if mode == "multi" else "tiny-single"))
    images = random_images(40, seed=3)
    int8, fp32, tensorflow = (open_engine(bundle, name, threads=2, max_batch=16).predict(images) for name in STEADY)
    np.testing.assert_allclose(tensorflow, fp32, atol=1e-5)
    # These are two models: the difference comes from quantization, not from the engines.
    np.testing.assert_allclose(int8, fp32, atol=0.1)
    # The models differ, and their answers depend on the image.
    assert np.abs(int8 - fp32).max() > 0
    assert fp32.std(axis=0).max() > 0.1


@pytest.mark.parametrize("name", EVERY)
def test_names_and_shapes(opened: dict[str, Engine], name: str) -> None:
    engine = opened[name]
    assert (engine.name, engine.input_size_px, engine.classes_count) == (name, 32, 3)


@pytest.mark.parametrize("name", EVERY)
def test_an_answer_stays_when_the_next_batch_runs(opened: dict[str, Engine], name: str) -> None:
    first = opened[name].predict(random_images(3, seed=1))
    kept = first.copy()
    opened[name].predict(random_images(3, seed=2))
    np.testing.assert_array_equal(first, kept)


# Except for the float batch, the models themselves would accept all of these without an error.
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "batch",
    [
        random_images(2, size_px=16),
        random_images(2)[:, :, :31],
        random_images(2).astype(np.float32),
        random_images(2)[:0],
        random_images(2)[0],
    ],
    ids=["smaller", "not square", "float", "none", "one image"],
)
def test_an_invalid_batch_fails_and_the_next_succeeds(
    opened: dict[str, Engine], name: str, batch: NDArray[Any]
) -> None:
    good = random_images(2)
    before = opened[name].predict(good)
    with pytest.raises(EngineFailed, match=rf"{name} was given"):
        opened[name].predict(batch)
    np.testing.assert_array_equal(opened[name].predict(good), before)


@pytest.mark.parametrize(("gpu", "expected"), [(True, EVERY), (False, STEADY)])
def test_half_precision_is_used_only_on_gpus(
    monkeypatch: pytest.MonkeyPatch, *, gpu: bool, expected: tuple[EngineName, ...]
) -> None:
    monkeypatch.setattr(engines, "gpu_visible", lambda: gpu)
    assert engines.runnable_engines() == expected


@pytest.mark.parametrize("name", EVERY)
def test_a_bundle_with_another_bundles_model_is_refused(copied: Path, tiny_store: ModelStore, name: EngineName) -> None:
    other = tiny_store.resolve("tiny-single")
    shutil.rmtree(copied / SAVED_MODEL_DIR)
    shutil.copytree(other / SAVED_MODEL_DIR, copied / SAVED_MODEL_DIR)
    for file in (INT8_FILE, FP32_FILE):
        shutil.copy(other / file, copied / file)
    bundle = open_bundle(with_new_digests(copied))
    with pytest.raises(BadBundle, match=rf"engine {name}: the answer to golden image \d+ is off by 0\.\d+"):
        open_engine(bundle, name, threads=1, max_batch=4)


@pytest.mark.parametrize("name", EVERY)
def test_a_file_that_is_not_a_model_is_a_bad_bundle(copied: Path, name: EngineName) -> None:
    for file in (INT8_FILE, FP32_FILE, f"{SAVED_MODEL_DIR}/saved_model.pb"):
        (copied / file).write_bytes(b"not a model, but of some length" * 50)
    bundle = open_bundle(with_new_digests(copied))
    with pytest.raises(BadBundle, match="can't be loaded"):
        open_engine(bundle, name, threads=1, max_batch=4)


@pytest.mark.parametrize("name", EVERY)
def test_a_model_of_another_input_size_is_a_bad_bundle(copied: Path, name: EngineName) -> None:
    values = json.loads((copied / MANIFEST_FILE).read_text()) | {"input_size_px": 64}
    (copied / MANIFEST_FILE).write_text(json.dumps(values))
    with pytest.raises(BadBundle, match="64, 64, 3"):
        open_engine(open_bundle(copied), name, threads=1, max_batch=4)


def test_an_engine_does_not_open_without_golden_images(copied: Path) -> None:
    (copied / GOLDEN_FILE).unlink()
    bundle = open_bundle(with_new_digests(copied))
    with pytest.raises(BadBundle, match=GOLDEN_FILE):
        open_engine(bundle, "litert", threads=1, max_batch=4)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (np.zeros((2, 3), np.float32), r"shape \[2, 3\], but should give \[3, 3\]"),
        (np.zeros((3, 4), np.float32), r"shape \[3, 4\], but should give \[3, 3\]"),
        (np.array([[0, 0, 1], [0, np.nan, 1], [0, 0, 1]], np.float32), "for image 1 of 3"),
    ],
)
def test_an_answer_that_is_malformed_or_not_finite_fails(answer: NDArray[np.float32], problem: str) -> None:
    with pytest.raises(EngineFailed, match=problem):
        check_answer(answer, images=3, classes_count=3, engine="litert")


@pytest.mark.parametrize(
    ("device", "visible", "installed", "expected"),
    [
        (True, None, True, "tensorflow"),
        (True, "1", True, "tensorflow"),
        (True, "", True, "litert-fp32"),
        (True, "-1", True, "litert-fp32"),
        (True, None, False, "litert-fp32"),
        (False, "0", True, "litert-fp32"),
    ],
)
def test_auto_takes_tensorflow_only_with_a_usable_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    device: bool,
    visible: str | None,
    installed: bool,
    expected: str,
) -> None:
    node = tmp_path / "nvidia0"
    if device:
        node.touch()
    monkeypatch.setattr(engines, "_NVIDIA_DEVICE", node)
    monkeypatch.setattr(engines, "tensorflow_installed", lambda: installed)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resolve_engine_name("auto", cpu_engine="litert-fp32") == expected
    named: EngineKind = "litert"
    assert resolve_engine_name(named, cpu_engine="litert-fp32") == "litert"


def test_auto_takes_the_manifests_cpu_engine(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("litert", "litert-fp32"):
        values: dict[str, Any] = json.loads((copied / MANIFEST_FILE).read_text()) | {"cpu_engine": name}
        (copied / MANIFEST_FILE).write_text(json.dumps(values))
        assert open_engine(open_bundle(copied), "auto", threads=0, max_batch=4).name == name


def test_a_missing_tensorflow_is_reported_if_it_is_asked_for(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "tensorflow_installed", lambda: False)
    with pytest.raises(NotFound, match="pip install"):
        open_engine(open_bundle(tiny_bundle), "tensorflow", threads=1, max_batch=4)


_LITERT_ALONE = """
import sys
from pathlib import Path
from model_store.bundle.golden import read_golden
from model_store.bundle.files import open_bundle
from model_store.engines.loading import open_engine
from model_store.registry.store import ModelStore

bundle = open_bundle(ModelStore(Path(sys.argv[1])).resolve("tiny"))
for kind in ("auto", "litert", "litert-fp32"):
    engine = open_engine(bundle, kind, threads=0, max_batch=8)
    engine.warm_up([1, 8])
    assert len(engine.predict(read_golden(bundle).images)) == len(read_golden(bundle).images)
heavy = {"tensorflow", "keras", "tf_keras", "tensorflow_hub", "matplotlib", "h5py"} & set(sys.modules)
assert not heavy, heavy
print(engine.name)
"""


def test_litert_never_imports_tensorflow(tiny_store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run_python(_LITERT_ALONE, str(tiny_store.root)).strip() == "litert-fp32"


def test_golden_answers_came_from_the_engines(opened: dict[str, Engine], tiny_bundle: Path) -> None:
    images, float32, int8 = read_golden(open_bundle(tiny_bundle))
    np.testing.assert_allclose(opened["tensorflow"].predict(images), float32, atol=1e-5)
    np.testing.assert_allclose(opened["litert"].predict(images), int8, atol=1e-6)


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("litert", INT8_FILE),
        ("litert-fp32", FP32_FILE),
        ("tensorflow", f"{SAVED_MODEL_DIR}/saved_model.pb"),
        ("tensorflow-mixed", f"{SAVED_MODEL_DIR}/variables/variables.index"),
    ],
)
def test_a_model_that_is_exchanged_after_the_check_is_not_loaded(copied: Path, engine: EngineName, name: str) -> None:
    bundle = open_bundle(copied)
    file = copied / name
    content = file.read_bytes()
    file.write_bytes(content + b"\0")  # LiteRT would take it
    with pytest.raises(BadBundle, match=f"{file.name} has SHA-256"):
        open_engine(bundle, engine, threads=1, max_batch=1)
    file.unlink()
    with pytest.raises(BadBundle, match="No such file"):
        open_engine(bundle, engine, threads=1, max_batch=1)


def test_tensorflow_loads_the_bytes_that_were_checked(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole folder is exchanged after its last file was read; and nothing is left in memory."""
    import tensorflow

    bundle, files, load = open_bundle(copied), engines.saved_model_files, tensorflow.saved_model.load
    locations: list[str] = []

    def read_and_lose(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
        yield from files(bundle)
        shutil.rmtree(copied / SAVED_MODEL_DIR)

    def noted(location: str) -> Any:
        locations.append(location)
        assert tensorflow.io.gfile.exists(location)
        return load(location)

    monkeypatch.setattr(engines, "saved_model_files", read_and_lose)
    monkeypatch.setattr(tensorflow.saved_model, "load", noted)
    engine = open_engine(bundle, "tensorflow", threads=1, max_batch=1)
    assert engine.predict(random_images(1)).shape == (1, engine.classes_count)
    assert not tensorflow.io.gfile.exists(locations[0])


def test_a_file_that_is_overwritten_does_not_change_the_loaded_model(copied: Path) -> None:
    """If LiteRT mapped the file, this would change the answers, or end the process with SIGBUS."""
    bundle = open_bundle(copied)
    engine = open_engine(bundle, "litert-fp32", threads=1, max_batch=1)
    images = read_golden(bundle).images
    before = engine.predict(images)
    with (copied / FP32_FILE).open("r+b") as file:
        file.write(bytes((copied / FP32_FILE).stat().st_size))
    np.testing.assert_array_equal(engine.predict(images), before)
    (copied / FP32_FILE).write_bytes(b"")
    np.testing.assert_array_equal(engine.predict(images), before)
