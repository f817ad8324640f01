"""Two versions on the same images: metrics, which one is right, and every image on which they differ."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from model_store.bundle.files import Bundle
from model_store.bundle.manifest import MANIFEST_FILE, SAMPLE_BITS_KEY, Manifest
from model_store.bundle.policy import Policy
from model_store.bundle.training_digests import write_training_digests
from model_store.commands import add_to
from model_store.datasets.dataset import Dataset, load_dataset
from model_store.datasets.image_loading import DecodeSettings
from model_store.engines.loading import open_engine
from model_store.evaluation.compare import compare_versions, mcnemar
from model_store.evaluation.evaluate import evaluate_dataset
from model_store.registry.store import ModelStore, file_digests
from model_store.runtime.progress import ProgressSteps
from shared.errors import BadDataset, BadSetting
from tests.model_store.tiny_bundle import CLASSES, copy_build, random_images

IMAGES = 24


def changed_build(bundle: Path, change: Callable[[Manifest], dict[str, Any]]) -> Callable[[Path, int], None]:
    """A build that copies the bundle with changes to its manifest."""

    def build(folder: Path, version: int) -> None:
        copy_build(bundle)(folder, version)
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
        changed = manifest.model_copy(update=change(manifest) | {"files": file_digests(folder)})
        (folder / MANIFEST_FILE).write_text(changed.model_dump_json())

    return build


def with_policy(**changes: Any) -> Callable[[Manifest], dict[str, Any]]:
    return lambda manifest: {"policy": manifest.policy.model_copy(update=changes)}


class Fixed:
    """An engine that gives the same answers again and again, whatever the images."""

    name = "litert"
    input_size_px = 32

    def __init__(self, answers: list[list[float]]) -> None:
        self.answers = np.array(answers, np.float32)
        self.classes_count = self.answers.shape[1]
        self.given = 0

    def warm_up(self, batch_sizes: object) -> None:
        """There is nothing to warm."""

    def predict(self, batch: np.ndarray) -> np.ndarray:
        self.given += len(batch)
        return self.answers[self.given - len(batch) : self.given]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Random images, each with one of the tiny model's labels, and a broken one with a newline in its name."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    lines = ["filename,labels"]
    for index, pixels in enumerate(random_images(IMAGES, seed=11)):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
        lines.append(f"{index:02}.png,{CLASSES[index % 3]}")
    (folder / "bro\nken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "labels.csv").write_text("\n".join([*lines, '"bro\nken.png",good']))
    (folder / "held_out.txt").write_text("00.png\n01.png\n02.png\n")
    return folder


@pytest.fixture
def store(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """tiny@1 is unchanged; tiny@2 answers `no cap` only if it is nearly certain."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    store = ModelStore(tmp_path / "models")
    store.publish("tiny", copy_build(tiny_bundle))
    store.publish("tiny", changed_build(tiny_bundle, with_policy(thresholds={"no cap": 0.99, "disfigured": 0.5})))
    return store


def run(store: ModelStore, *arguments: object) -> Result:
    app = typer.Typer()
    add_to(app)
    command = ["models", "compare", *map(str, arguments), "--model-store", str(store.root), "--engine", "litert-fp32"]
    result = CliRunner().invoke(app, command)
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def bundle(tmp_path: Path, classes: tuple[str, ...], **policy: Any) -> Bundle:
    """A bundle that has only a manifest, which is enough if the test provides the engine."""
    manifest = Manifest.model_validate(
        {
            "name": "made-up",
            "version": 1,
            "created_at": 0,
            "mode": "multi",
            "classes": classes,
            "input_size_px": 32,
            "policy": Policy.default(classes, "multi").model_copy(update=policy).model_dump(),
            "backbone": {"handle": "none", "sha256": "0" * 64, "feature_width": 8},
            "training": {"seed": 1, "epochs": 0, "batch_size": 1, "fine_tune": "none"},
            "dataset": {"fingerprint": "0" * 64, "images": 0, "train": 0, "validation": 0, "per_label": {}},
            "files": {},
        }
    )
    return Bundle(tmp_path, manifest)


def three_images(tmp_path: Path, *labels: str) -> Dataset:
    """Images with a control character in their names."""
    folder = tmp_path / "three"
    folder.mkdir()
    for index, pixels in enumerate(random_images(3)):
        Image.fromarray(pixels).save(folder / f"{index}\x9b.png")
    rows = [f"{index}\x9b.png,{name}" for index, name in enumerate(labels)]
    (folder / "labels.csv").write_text("\n".join(["filename,labels", *rows]))
    return load_dataset(folder)


def test_metrics_and_differences_of_known_answers(tmp_path: Path) -> None:
    dataset = three_images(tmp_path, "good", "no cap", "disfigured|no cap")
    a = Fixed([[0.9, 0.05, 0.05], [0.4, 0.6, 0.0], [0.02, 0.9, 0.8]])
    b = Fixed([[0.9, 0.05, 0.05], [0.95, 0.05, 0.0], [0.02, 0.8, 0.9]])
    made = bundle(tmp_path, CLASSES)
    found = compare_versions(
        dataset, (made, a), (made, b), max_batch=2, decode_settings=DecodeSettings(), steps=ProgressSteps()
    ).as_dict()  # type: ignore[arg-type]
    assert found["right"] == {"both": 2, "only_a": 1, "only_b": 0, "neither": 0, "p_value": 1.0}
    assert found["figures"]["exact_match"] == {"a": 1.0, "b": pytest.approx(2 / 3, abs=1e-6), "difference": -0.333333}
    assert found["per_class"]["no cap"]["recall"] == {"a": 1.0, "b": 0.5, "difference": -0.5}
    assert found["per_class"]["no cap"]["images"] == 2
    (one,) = found["differences"]
    assert (one["file"], one["truth"]) == (r"1\x9b.png", ["no cap"])
    assert one["a"] == {
        "labels": [{"label": "no cap", "probability": pytest.approx(0.6)}],
        "lane": "manual" if one["a"]["uncertain"] else "no-cap",
        "uncertain": one["a"]["uncertain"],
        "right": True,
    }
    assert (one["b"]["labels"][0]["label"], one["b"]["right"], one["b"]["lane"]) == ("good", False, "good")


def test_labels_that_only_one_version_knows(tmp_path: Path) -> None:
    dataset = three_images(tmp_path, "good", "no cap", "pigmented")
    a = Fixed([[0.9, 0.1], [0.1, 0.9], [0.95, 0.05]])
    b = Fixed([[0.02, 0.95, 0.03], [0.9, 0.05, 0.0], [0.0, 0.01, 0.99]])
    models = (bundle(tmp_path, ("good", "no cap")), a), (bundle(tmp_path, ("no cap", "good", "pigmented")), b)
    found = compare_versions(
        dataset, *models, max_batch=8, decode_settings=DecodeSettings(), steps=ProgressSteps()
    ).as_dict()  # type: ignore[arg-type]
    assert found["labels"] == {
        "shared": ["good", "no cap"],
        "only_a": [],
        "only_b": ["pigmented"],
        "unknown_to_both": [],
        "same": {},
    }
    # A doesn't know `pigmented`: it calls that bottle good, which is wrong.
    assert found["right"] == {"both": 2, "only_a": 0, "only_b": 1, "neither": 0, "p_value": 1.0}
    assert found["per_class"]["pigmented"]["f1"] == {"a": None, "b": 1.0, "difference": None}
    # This is over `good` and `no cap`: A calls one image too many good.
    assert found["figures"]["macro_f1"]["a"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-6)
    assert found["figures"]["macro_f1"]["b"] == 1.0
    assert [one["file"] for one in found["differences"]] == [r"2\x9b.png"]


def test_macro_f1_and_map_are_over_the_shared_labels(tmp_path: Path) -> None:
    dataset = three_images(tmp_path, "good", "no cap", "good")
    a = Fixed([[0.9, 0.1], [0.1, 0.9], [0.95, 0.05]])
    b = Fixed([[0.95, 0.03, 0.02], [0.05, 0.9, 0.9], [0.9, 0.05, 0.05]])
    models = (bundle(tmp_path, ("good", "no cap")), a), (bundle(tmp_path, ("good", "no cap", "pigmented")), b)
    metrics = compare_versions(
        dataset, *models, max_batch=8, decode_settings=DecodeSettings(), steps=ProgressSteps()
    ).metrics()  # type: ignore[arg-type]
    # B's wrong `pigmented` makes that image wrong, but doesn't count for the shared labels.
    assert metrics["exact_match"]["b"] == pytest.approx(2 / 3, abs=1e-6)
    assert metrics["macro_f1"] == metrics["map"] == {"a": 1.0, "b": 1.0, "difference": 0.0}


def test_a_different_lane_with_the_same_labels_is_a_difference(tmp_path: Path) -> None:
    dataset = three_images(tmp_path, "good", "no cap", "no cap")
    answers = [[0.9, 0.05, 0.05], [0.1, 0.9, 0.05], [0.4, 0.6, 0.0]]
    usual, other = bundle(tmp_path, CLASSES), bundle(tmp_path, CLASSES, lanes={name: "chute" for name in CLASSES})
    models = (usual, Fixed(answers)), (other, Fixed(answers))
    found = compare_versions(
        dataset, *models, max_batch=8, decode_settings=DecodeSettings(), steps=ProgressSteps()
    ).as_dict()  # type: ignore[arg-type]
    lanes = {one["file"]: (one["a"]["lane"], one["b"]["lane"]) for one in found["differences"]}
    assert lanes.items() >= {(r"0\x9b.png", ("good", "chute")), (r"1\x9b.png", ("no-cap", "chute"))}
    assert found["right"]["both"] == 3


def test_models_without_a_common_label_are_not_compared(tmp_path: Path) -> None:
    dataset = three_images(tmp_path, "good", "good", "good")
    single = bundle(tmp_path, ("good", "no cap"))
    other = Bundle(
        tmp_path,
        single.manifest.model_copy(update={"classes": ("cat", "dog"), "mode": "single"}),
    )
    with pytest.raises(BadSetting, match="no label in common"):
        compare_versions(
            dataset,
            (single, Fixed([[1, 0]])),  # type: ignore[arg-type]
            (other, Fixed([[1, 0]])),  # type: ignore[arg-type]
            max_batch=1,
            decode_settings=DecodeSettings(),
            steps=ProgressSteps(),
        )


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (7, 2), (2, 7), (10, 10), (0, 12)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    count = only_a + only_b
    tail = sum(comb(count, k) for k in range(min(only_a, only_b) + 1)) / 2**count
    assert mcnemar(only_a, only_b) == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_of_many_images() -> None:
    assert mcnemar(3000, 3000) == 1.0
    assert 0 < mcnemar(1600, 1400) < 1e-3
    assert mcnemar(5000, 0) == 0.0


def test_compare_on_the_command_line(store: ModelStore, dataset: Path, tmp_path: Path) -> None:
    result = run(store, "tiny@1", "tiny@2", "--dataset", dataset, "--json", "--out", tmp_path / "d.csv")
    found = json.loads(result.stdout)
    assert r"not used: bro\nken.png" in result.stderr
    assert [item["file"] for item in found["unreadable"]] == [r"bro\nken.png"]
    assert (found["images"], found["a"]["version"], found["b"]["version"]) == (IMAGES, 1, 2)
    assert sum(found["right"][name] for name in ("both", "only_a", "only_b", "neither")) == IMAGES
    assert 0 < len(found["differences"]) < IMAGES
    for one in found["differences"]:
        sides = [({item["label"] for item in one[side]["labels"]}, one[side]["lane"]) for side in "ab"]
        assert sides[0] != sides[1]
    # Only the threshold of `no cap` differs, so only the metrics of `no cap` can differ.
    assert found["figures"]["accuracy"]["difference"] == found["figures"]["map"]["difference"] == 0.0
    for side, version in (("a", 1), ("b", 2)):
        alone = evaluated(store, f"tiny@{version}", dataset)
        assert {name: found["figures"][name][side] for name in found["figures"]} == {
            name: alone[name] for name in found["figures"]
        }
    with (tmp_path / "d.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [one["file"] for one in found["differences"]]
    for row, one in zip(rows, found["differences"], strict=True):
        assert row["b_labels"] == "|".join(item["label"] for item in one["b"]["labels"])
        assert (row["a_lane"], row["a_right"]) == (one["a"]["lane"], "true" if one["a"]["right"] else "false")
        assert row["b_probability"] == "|".join(str(item["probability"]) for item in one["b"]["labels"])


def read_at(bundle: Bundle, bits: int) -> Bundle:
    training = bundle.manifest.training.model_copy(update={"settings": {SAMPLE_BITS_KEY: bits}})
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"training": training}))


def test_images_that_only_one_of_two_models_can_read(tmp_path: Path) -> None:
    dataset, made = three_images(tmp_path, "good", "no cap", "good"), bundle(tmp_path, CLASSES)
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / "three" / "1\x9b.png")
    models = [(read_at(made, bits), Fixed([[0.9, 0.1, 0.1]] * 3)) for bits in (10, 12)]
    with pytest.raises(
        BadSetting, match=r"at 10 bits per sample and at 12 .* can read 1 of these, e\.g\. 1\\x9b\.png\."
    ):
        compare_versions(dataset, *models, max_batch=8, decode_settings=DecodeSettings(), steps=ProgressSteps())  # type: ignore[arg-type]


class Deleting(Fixed):
    """Deletes a file when it is given the images."""

    path = Path()

    def predict(self, batch: np.ndarray) -> np.ndarray:
        self.path.unlink()
        return super().predict(batch)


def test_files_that_vanish_between_the_models_are_named(tmp_path: Path) -> None:
    dataset, made = three_images(tmp_path, "good", "no cap", "good"), bundle(tmp_path, CLASSES)
    a = Deleting([[0.9, 0.1, 0.1]] * 3)
    a.path = tmp_path / "three" / "1\x9b.png"
    b = Fixed([[0.9, 0.1, 0.1]] * 2)
    with pytest.raises(BadSetting, match=r"changed while the two models ran, e\.g\. 1\\x9b\.png.* Compare again"):
        compare_versions(
            dataset, (made, a), (made, b), max_batch=8, decode_settings=DecodeSettings(), steps=ProgressSteps()
        )  # type: ignore[arg-type]


def evaluated(store: ModelStore, spec: str, dataset: Path) -> dict[str, Any]:
    path = store.resolve(spec)
    opened = Bundle(path, Manifest.model_validate_json((path / MANIFEST_FILE).read_bytes()))
    engine = open_engine(opened, "litert-fp32", threads=1, max_batch=4)
    return evaluate_dataset(
        load_dataset(dataset), opened, engine, max_batch=4, decode_settings=DecodeSettings(), steps=ProgressSteps()
    )


def test_a_label_that_the_model_does_not_know_is_refused_at_the_start(tmp_path: Path) -> None:
    dataset = three_images(tmp_path, "good", "no cap", "pigmented")
    engine = Fixed([[0.9, 0.1]] * 3)
    with pytest.raises(BadDataset, match=r"'pigmented', which the model doesn't know: its classes are good, no cap\."):
        evaluate_dataset(
            dataset,
            bundle(tmp_path, ("good", "no cap")),
            engine,  # type: ignore[arg-type]
            max_batch=2,
            decode_settings=DecodeSettings(),
            steps=ProgressSteps(),
        )
    assert engine.given == 0


def test_a_version_does_not_differ_from_itself(store: ModelStore, dataset: Path) -> None:
    found = json.loads(run(store, "tiny@1", "tiny@1", "--dataset", dataset, "--json").stdout)
    assert found["differences"] == []
    assert {beside["difference"] for beside in found["figures"].values()} == {0.0}
    assert found["right"]["p_value"] == 1.0
    assert "the same labels and the same lane" in run(store, "tiny@1", "tiny@1", "--dataset", dataset).stdout


def test_compare_as_text_and_as_a_page(store: ModelStore, dataset: Path, tmp_path: Path) -> None:
    page = tmp_path / "differences.html"
    text = run(store, "tiny@1", "tiny", "--dataset", dataset, "--html", page).stdout
    differing = json.loads(run(store, "tiny@1", "tiny@2", "--dataset", dataset, "--json").stdout)["differences"]
    assert f"{len(differing)} images with different labels or lanes" in text
    html = page.read_text()
    assert html.count("data:image/jpeg") == len(differing)
    assert all(one["file"] in text and one["file"] in html for one in differing)
    assert "<script" not in html and "http" not in html.replace("http-equiv", "")


def test_images_beyond_the_settings_limits_are_not_compared(
    store: ModelStore, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        Image.fromarray(random_images(1, size_px=48)[0]).save(dataset / f"{index:02}.png")
    arguments = ("tiny@1", "tiny@2", "--dataset", dataset, "--html", tmp_path / "page.html", "--json")
    assert json.loads(run(store, *arguments).stdout)["images"] == IMAGES
    monkeypatch.setenv("SORTLINE_MAX_IMAGE_PX", str(32 * 32))
    result = run(store, *arguments)
    assert json.loads(result.stdout)["images"] == IMAGES - 3
    assert "00.png: 48 x 48 = 2,304 pixels, the limit is 1,024 (max_image_px)" in result.stderr


def test_only_the_held_out_images(store: ModelStore, dataset: Path) -> None:
    arguments = ("tiny@1", "tiny@2", "--dataset", dataset, "--held-out", "--json")
    assert json.loads(run(store, *arguments).stdout)["images"] == 3
    (dataset / "held_out.txt").unlink()
    with pytest.raises(BadDataset, match="--held-out"):
        run(store, *arguments)


def test_images_that_a_version_was_trained_on_are_reported(store: ModelStore, dataset: Path, tiny_bundle: Path) -> None:
    import hashlib

    digests = [hashlib.sha256((dataset / f"{index:02}.png").read_bytes()).hexdigest() for index in range(5)]

    def build(folder: Path, version: int) -> None:
        write_training_digests(folder, train=digests, validation=[])
        changed_build(tiny_bundle, lambda manifest: {})(folder, version)

    store.publish("tiny", build)
    result = run(store, "tiny@1", "tiny@3", "--dataset", dataset, "--json")
    found = json.loads(result.stdout)
    assert (found["a"]["seen_in_training"], found["b"]["seen_in_training"]) == (None, {"train": 5, "validation": 0})
    assert "tiny@3 (litert-fp32): the model was trained on 5 of these 24 images" in result.stderr


@pytest.mark.parametrize("name", ["labels.csv", "held_out.txt"])
def test_the_datasets_own_files_are_not_overwritten(store: ModelStore, dataset: Path, name: str) -> None:
    before = (dataset / name).read_bytes()
    with pytest.raises(BadSetting, match=f"--out .*{name} is read by this command"):
        run(store, "tiny@1", "tiny@2", "--dataset", dataset, "--out", dataset / name)
    assert (dataset / name).read_bytes() == before


def test_a_file_that_cannot_be_written(store: ModelStore, dataset: Path, tmp_path: Path) -> None:
    for flag in ("--out", "--html"):
        with pytest.raises(BadSetting, match="can't be written"):
            run(store, "tiny@1", "tiny@2", "--dataset", dataset, flag, tmp_path / "absent" / "file")
