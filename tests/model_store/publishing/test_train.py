"""From a folder of images to a published and verified version, with the commands that users run."""

from __future__ import annotations

import io
import json
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from model_store.bundle.files import open_bundle
from model_store.bundle.golden import read_golden
from model_store.bundle.manifest import FP32_FILE, INT8_FILE
from model_store.datasets.dataset import Sample
from model_store.datasets.image_loading import DecodedSamples
from model_store.engines.loading import open_engine
from model_store.export.quantization import CALIBRATION_IMAGES, sensitive_operators
from model_store.publishing.publish import sample_bits_info, spread_over, training_info
from model_store.publishing.train_options import TrainOptions
from model_store.training.crop_geometry import UPRIGHT_SIZE
from model_store.training.fine_tuning import SETTINGS
from model_store.training.head import HeadSettings
from model_store.training.history import Phase
from model_store.training.plan import TransferPlan
from shared.errors import BadDataset
from tests.kit import PATIENCE_S, PROJECT
from tests.model_store.publishing.kit import Bench, commands
from tests.model_store.tiny_backbone import SIZE_PX

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def multi(bench: Bench, several: Path) -> dict[str, Any]:
    return bench.train(several, "--name", "multi")


@pytest.fixture(scope="module")
def single(bench: Bench, folders: Path) -> dict[str, Any]:
    return bench.train(folders, "--name", "single", "--fine-tune", "all")


def test_training_learns_and_reports_the_numbers_of_images(multi: dict[str, Any]) -> None:
    assert multi["mode"] == "multi"
    assert multi["version"] == 1
    data = multi["dataset"]
    assert (data["train"] + data["validation"], data["held_out"]) == (64, 16)
    assert data["validation"] == 13
    assert multi["metrics"]["macro_f1"] > 0.9


def test_exports_answer_like_the_trained_model(multi: dict[str, Any]) -> None:
    parity = multi["parity"]
    assert parity["images"] == 13 + 16
    assert parity["saved_model_max_difference"] <= 1e-5
    assert parity["fp32_max_difference"] <= 1e-5
    assert parity["int8_max_difference"] < 0.2  # int8 changes the answers of random weights more than usual
    earned = parity["int8_labels_agreement"] >= 0.99 and parity["fp32_macro_f1"] - parity["int8_macro_f1"] <= 0.005
    earned = earned and parity.get("int8_rechecked", 0) <= 1 / 3
    assert multi["cpu_engine"] == ("litert" if earned else "litert-fp32")


def test_int8_is_rechecked_if_it_does_not_pass_its_gate_alone(multi: dict[str, Any]) -> None:
    manifest, parity = open_bundle(Path(multi["path"])).manifest, multi["parity"]
    assert (manifest.int8_recheck_margin > 0) == ("int8_rechecked" in parity)
    assert ("int8_alone_labels_agreement" in parity) == ("int8_rechecked" in parity)


def test_the_manifest_records_how_the_version_was_trained(multi: dict[str, Any]) -> None:
    settings = multi["training"]["settings"]
    assert multi["training"]["fine_tune"] == "none"
    assert settings["look"] == "whole"
    assert 0 < settings["separation"]["whole"] <= 1
    assert any("51 training images (below 60) are too few" in note for note in multi["notes"])
    assert multi["calibration"]["images"] == 13
    assert multi["parent"] is None
    packages = multi["training"]["packages"]
    assert (packages["sortline"], packages["python"]) == (version("sortline"), platform.python_version())
    assert "tensorflow" in packages


def test_manifests_keep_the_names_of_the_bundle_format() -> None:
    """In manifests `crop detected|full` is still `look found|whole`, and the objective `confidence` is `sure`."""
    plan = TransferPlan("top", "detected", {"detected": 0.91236, "full": 0.85}, ("why",))
    extractor = SimpleNamespace(crop_size=UPRIGHT_SIZE)
    phases = (Phase("head", {}, 3), Phase("fine-tuning", {}, 5))
    model = SimpleNamespace(
        plan=plan,
        extractor=extractor,
        phases=phases,
        head_settings=HeadSettings(),
        fine_tune_settings=SETTINGS["top"],
    )
    data = SimpleNamespace(pictures=SimpleNamespace(sample_bits=()), sample_bits=0)
    options = TrainOptions(objective="confidence:0.95")
    training: Any = SimpleNamespace(options=options, model=model, data=data, reasons=("start", *plan.reasons))
    settings = training_info(training).settings
    assert list(settings) == [
        *("epochs", "batch_size", "learning_rate", "decays", "label_smoothing", "views", "weight_decay"),
        *("kernel_initializer", "standardised", "class_weights", "best_epoch", "patience", "tuning"),
        *("look", "canvas", "separation", "reasons", "objective", "best_epochs"),
    ]
    assert list(settings["tuning"]) == [
        *("learning_rate", "epochs", "batch_size", "head_learning_rate", "label_smoothing", "dropout"),
        *("weight_decay", "largest_gradient", "own_statistics"),
    ]
    assert (settings["look"], settings["canvas"], settings["objective"]) == ("found", "192x128", "sure:0.95")
    assert settings["separation"] == {"found": 0.9124, "whole": 0.85}
    assert settings["best_epochs"] == {"head": 3, "fine-tuning": 5}
    assert settings["reasons"] == ["start", "why"]


def test_bundles_of_earlier_releases_load(bench: Bench, multi: dict[str, Any], tmp_path: Path) -> None:
    path = Path(multi["path"])
    folder = shutil.copytree(path, tmp_path / "models" / path.relative_to(bench.store.root))
    manifest = json.loads((folder / "manifest.json").read_text())
    former = {"look": "found", "separation": {"found": 0.9, "whole": 0.8}, "canvas": "192x128", "objective": "sure:0.9"}
    manifest["training"]["settings"] |= former
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert former.items() <= open_bundle(folder).manifest.training.settings.items()
    shown = CliRunner().invoke(commands(), ["models", "show", "multi@1", "--model-store", str(tmp_path / "models")])
    assert shown.exit_code == 0, shown.output
    lines = [line.strip() for line in shown.stdout.splitlines()]
    words = {" ".join(line.split()) for line in lines}
    assert {"crop detected", "feature separability detected 0.9, full 0.8", "objective confidence:0.9"} <= words
    epochs = manifest["training"]["settings"]["best_epochs"]
    assert f"epochs kept head {epochs['head'] + 1}" in words


@pytest.mark.parametrize("kind", ["litert", "litert-fp32", "tensorflow"])
def test_every_engine_runs_the_bundle_and_good_is_derived(multi: dict[str, Any], kind: Any) -> None:
    bundle = open_bundle(Path(multi["path"]))
    engine = open_engine(bundle, kind, threads=1, max_batch=4)
    images = read_golden(bundle).images
    answers = engine.predict(images)
    defects = [index for index, name in enumerate(bundle.manifest.classes) if name != "good"]
    good = bundle.manifest.classes.index("good")
    np.testing.assert_allclose(answers[:, good], np.prod(1 - answers[:, defects], axis=1), atol=0.02)
    np.testing.assert_allclose(engine.predict(images[:1]), answers[:1], atol=1e-4)


def test_the_stem_and_the_head_of_int8_stay_float(multi: dict[str, Any]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    folder = Path(multi["path"])
    kept = set(sensitive_operators(folder / FP32_FILE))
    interpreter = Interpreter(model_path=str(folder / INT8_FILE))
    types = {tensor["index"]: np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    outputs = [types[op["outputs"][0]] for op in operators if op["op_name"] == "CONV_2D"]
    assert kept
    assert outputs == ["float32"] * 3 + ["int8"] * 5


def test_the_same_seed_gives_the_same_model(bench: Bench, several: Path, multi: dict[str, Any]) -> None:
    again = bench.train(several, "--name", "multi")
    assert again["version"] == 2
    assert bench.store.current("multi") == 2
    assert again["metrics"] == multi["metrics"]
    first, second = (read_golden(open_bundle(Path(run["path"]))) for run in (multi, again))
    np.testing.assert_array_equal(first.float32, second.float32)


def test_evaluate_measures_the_held_out_images(bench: Bench, several: Path, multi: dict[str, Any]) -> None:
    metrics = bench.json("evaluate", several, "--held-out", "--model", "multi@1", "--engine", "litert-fp32")
    assert metrics["images"] == 16
    assert metrics["model"] == {"name": "multi", "version": 1, "engine": "litert-fp32"}
    assert metrics["seen_in_training"] == {"train": 0, "validation": 0}
    assert metrics["macro_f1"] > 0.7
    assert set(metrics["per_class"]) == {"good", "no cap", "pigmented"}
    assert sum(map(sum, metrics["confusion"]["matrix"])) == 16


def test_evaluate_counts_the_images_that_were_trained_on(bench: Bench, several: Path, multi: dict[str, Any]) -> None:
    metrics = bench.json("evaluate", several, "--model", "multi@1", "--engine", "litert")
    assert metrics["images"] == 80
    assert metrics["seen_in_training"] == {"train": multi["dataset"]["train"], "validation": 13}


def test_single_from_class_folders_with_a_broken_file(bench: Bench, folders: Path, single: dict[str, Any]) -> None:
    assert single["mode"] == "single"
    assert [item["file"] for item in single["unreadable"]] == [r"good/bro\nken.png"]
    assert single["metrics"]["accuracy"] > 0.9
    metrics = bench.json("evaluate", folders, "--model", "single")
    assert metrics["images"] == 36
    assert [item["file"] for item in metrics["unreadable"]] == [r"good/bro\nken.png"]
    report = Path(single["path"]) / "report"
    pictures = {f"{name}.png" for name in ("curves", "confusion", "thresholds", "reliability", "samples", "mistakes")}
    assert {path.name for path in report.iterdir()} == pictures | {"index.html", "logs"}


def test_the_manifest_records_the_settings_of_fine_tuning(
    bench: Bench, single: dict[str, Any], multi: dict[str, Any]
) -> None:
    assert "tuning" not in multi["training"]["settings"]
    told = single["training"]["settings"]["tuning"]
    assert told == SETTINGS["all"].as_dict() | {"epochs": 72}
    assert {"learning_rate", "head_learning_rate", "batch_size", "dropout", "weight_decay"} <= told.keys()
    assert set(single["training"]["settings"]["best_epochs"]) == {"head", "fine-tuning"}
    assert bench.json("models", "show", "single")["training"]["settings"]["tuning"] == told


def deep_picture(level: int, seed: int, *, bits: int) -> bytes:
    """A gray PNG: `level` (of 255) with noise. If `bits` is above 8 it has 16-bit samples without a tag for `bits`."""
    noise = np.random.default_rng(seed).normal(0, 4, (SIZE_PX, SIZE_PX))
    values = np.clip(level + noise, 0, 250).astype(np.uint16) << (bits - 8)
    out = io.BytesIO()
    Image.fromarray(values.astype(np.uint8) if bits == 8 else values).save(out, "PNG")
    return out.getvalue()


def test_a_model_of_12_bits_reads_them_as_it_was_trained(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = tmp_path / "deep"
    for name, level in {"good": 60, "no cap": 190}.items():
        (dataset / name).mkdir(parents=True)
        for seed in range(12):
            (dataset / name / f"{seed:02}.png").write_bytes(deep_picture(level, seed, bits=12))
    flags = ["--backbone", str(bench.backbone), "--cache-dir", str(bench.root), "--model-store", str(bench.store.root)]
    refused = CliRunner().invoke(commands(), ["train", str(dataset), *flags])
    assert isinstance(refused.exception, BadDataset)  # unclear bits: not trained on as black
    assert "not used: good/00.png and" in refused.stderr
    assert "Set sample_bits to the number of bits" in refused.stderr
    monkeypatch.setenv("SORTLINE_SAMPLE_BITS", "12")
    trained = bench.train(dataset, "--name", "deep")
    settings = trained["training"]["settings"]
    assert (settings["sample_bits"], settings["images_by_sample_bits"]) == (12, {"12": 24})
    monkeypatch.delenv("SORTLINE_SAMPLE_BITS")
    pictures = {bits: tmp_path / f"{bits}.png" for bits in (8, 12)}
    for bits, path in pictures.items():
        path.write_bytes(deep_picture(190, 99, bits=bits))
    answers = bench.json("classify", *pictures.values(), "--model", "deep", "--top", 2)["images"]
    assert answers[0]["best"] == answers[1]["best"]
    assert bench.json("evaluate", dataset, "--model", "deep")["accuracy"] == 1
    monkeypatch.setenv("SORTLINE_SAMPLE_BITS", "16")  # the setting wins, but says so
    assert (
        bench.json("classify", pictures[12], "--model", "deep", "--top", 2)["images"][0]["best"] != answers[0]["best"]
    )
    flags = ["--model", "deep", "--model-store", str(bench.store.root)]
    told = CliRunner().invoke(commands(), ["classify", str(pictures[12]), *flags]).stderr
    assert "sample_bits is 16, but deep@1 was trained on images of 12 bits" in told


@pytest.mark.parametrize(
    ("sample_bits", "images", "setting", "number"),
    [
        ((12,) * 6, 10, 0, 12),
        ((16,) * 10, 10, 0, 16),
        ((12,), 10, 0, None),  # a stray one among images of 8 bits
        ((12,) * 5 + (10,), 6, 0, None),
        ((12,), 10, 12, 12),
    ],
)
def test_most_images_decide_at_how_many_bits_a_model_reads_its_own(
    sample_bits: tuple[int, ...], images: int, setting: int, number: int | None
) -> None:
    samples = tuple(Sample(f"{index}.png", ()) for index in range(images))
    pictures = DecodedSamples(samples, np.empty((images, 1, 1, 3), np.uint8), (), "", sample_bits=sample_bits)
    info = sample_bits_info(pictures, setting=setting)
    assert info.get("sample_bits") == number
    assert sum(info["images_by_sample_bits"].values()) == len(sample_bits)


@pytest.mark.parametrize("images", [3, CALIBRATION_IMAGES, 900])
def test_int8_is_calibrated_on_every_class(images: int) -> None:
    """A dataset's images come folder by folder, so the first ones alone would be of one class."""
    rows = 7 + 2 * np.arange(images)
    classes = np.arange(images) * 3 // images
    chosen = spread_over(rows, CALIBRATION_IMAGES)
    assert len(chosen) == min(images, CALIBRATION_IMAGES)
    assert (np.diff(chosen) > 0).all()
    counts = np.bincount(classes[(chosen - 7) // 2], minlength=3)
    assert counts.max() - counts.min() <= 2


def test_help_shows_the_default_of_mode() -> None:
    shown = CliRunner().invoke(commands(), ["train", "--help"]).stdout
    words = " ".join(shown.replace("│", " ").split())
    assert "(default: multi if any image has several labels)" in words
    assert "once for each camera, or for all" in words


@pytest.fixture(scope="module")
def told(bench: Bench, folders: Path) -> Result:
    """What a training tells, and its JSON."""
    flags = ["--backbone", bench.backbone, "--cache-dir", bench.root / "cache", "--model-store", bench.store.root]
    flags += ["--name", "told", "--epochs", 2, "--fine-tune", "none", "--learning-rate", 0.02, "--batch-size", 8]
    return CliRunner().invoke(commands(), ["train", str(folders), *map(str, flags), "--json"])


def test_a_training_tells_its_epochs_on_standard_error(told: Result) -> None:
    lines = told.stderr.splitlines()
    (logs,) = [line for line in lines if line.startswith("to watch the training: tensorboard --logdir ")]
    assert not Path(logs.split()[-1]).exists()
    head = lines.index("head:")
    assert [line.split(" - ")[0] for line in lines[head + 1 : head + 3]] == ["epoch 1/2", "epoch 2/2"]
    training = json.loads(told.stdout)["training"]
    assert (training["settings"]["learning_rate"], training["batch_size"]) == (0.02, 8)


@pytest.mark.slow
def test_a_training_whose_messages_cannot_be_written_is_published(bench: Bench, folders: Path) -> None:
    """Lines on the dataset and the epochs, a table of the images that are not used, progress."""
    flags = ["--backbone", bench.backbone, "--cache-dir", bench.root / "cache", "--model-store", bench.store.root]
    flags += ["--name", "unheard", "--epochs", 1, "--fine-tune", "none", "--json"]
    command = [sys.executable, "-m", "sortline", "train", folders, *flags]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            list(map(str, command)), cwd=PROJECT, stdout=subprocess.PIPE, stderr=full, timeout=4 * PATIENCE_S
        )
    assert done.returncode == 0
    assert json.loads(done.stdout)["version"] == 1


def test_images_that_workers_would_reject_are_neither_trained_on_nor_evaluated(
    bench: Bench, several: Path, multi: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORTLINE_MAX_IMAGE_BYTES", "100")
    with pytest.raises(BadDataset, match=r"none of 80 can be read.*more than 100 bytes, the limit \(max_image_bytes\)"):
        bench.json("evaluate", several, "--model", "multi")
    with pytest.raises(BadDataset, match="has 0 usable"):
        bench.train(several)
    report = CliRunner().invoke(commands(), ["models", "check-dataset", str(several)])
    assert "(max_image_bytes)" in report.stdout
    assert isinstance(report.exception, BadDataset)


def test_a_training_says_what_it_chose_before_its_epochs_and_which_epoch_it_kept(told: Result, folders: Path) -> None:
    assert told.stderr.startswith(f"{folders}: 37 images to check and to learn from: good 13, no cap 12, ")
    first, last, crop, method, kept = (
        [number for number, line in enumerate(told.stderr.splitlines()) if text in line]
        for text in ("epoch 1/2 ", "epoch 2/2 ", "--crop full: ", "--fine-tune none, as asked", "head: kept epoch ")
    )
    assert crop + method < first < last < kept
    best = json.loads(told.stdout)["training"]["settings"]["best_epochs"]["head"]
    assert f"head: kept epoch {best + 1}: lowest loss on the validation images, " in told.stderr
