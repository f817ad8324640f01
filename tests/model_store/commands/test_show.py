"""`models show`, as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from model_store.bundle.int8_gate import int8_refusal_reason
from model_store.bundle.manifest import INT8_FILE, MANIFEST_FILE, CalibrationInfo, DatasetInfo, Manifest
from model_store.commands import add_to
from model_store.registry.store import ModelStore, file_digests
from model_store.reports.model_summary import class_rows, format_delta, gate_verdict, overall_rows, summary_sections
from model_store.reports.page import write_page
from model_store.training.fine_tuning import SETTINGS
from model_store.training.head import HeadSettings
from shared.errors import NotFound
from shared.images.crop_regions import Region
from tests.model_store.reports.report_data import manifest_of, report_data
from tests.model_store.tiny_bundle import CLASSES, copy_build


def measured_build(bundle: Path) -> Callable[[Path, int], None]:
    """A copy of the bundle with the metrics and the page of a report."""

    def build(folder: Path, version: int) -> None:
        copy_build(bundle)(folder, version)
        data = report_data(CLASSES, "multi")
        (folder / "report").mkdir()
        write_page(folder / "report", data)
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
        fields = {"metrics": data.manifest.metrics, "parity": data.manifest.parity, "cpu_engine": "litert-fp32"}
        fields |= {"calibration": data.manifest.calibration, "dataset": data.manifest.dataset}
        complete = manifest.model_copy(update=fields | {"files": file_digests(folder)})
        (folder / MANIFEST_FILE).write_text(complete.model_dump_json())

    return build


@pytest.fixture
def store(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A store in which version 1 has no optional fields, and version 2, the current one, has all of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
    store = ModelStore(tmp_path / "models")
    store.publish("tiny", copy_build(tiny_bundle))
    store.publish("tiny", measured_build(tiny_bundle))
    return store


def show(store: ModelStore, *arguments: str) -> str:
    app = typer.Typer()
    add_to(app)
    result = CliRunner().invoke(app, ["models", "show", *arguments, "--model-store", str(store.root)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.stdout


def row(text: str, name: str) -> list[str]:
    """The words of the one line that starts with a name."""
    (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{name} "))
    return line.strip().removeprefix(name).split()


def test_json_is_the_manifest(store: ModelStore) -> None:
    shown: dict[str, Any] = json.loads(show(store, "tiny", "--json"))
    folder = store.resolve("tiny")
    assert (shown["name"], shown["version"], shown["path"]) == ("tiny", 2, str(folder))
    assert shown["report"] == str(folder / "report" / "index.html")
    manifest = Manifest.model_validate({key: shown[key] for key in Manifest.model_fields if key in shown})
    assert manifest == Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    assert INT8_FILE in shown["files"]


def test_the_page_shows_classes_metrics_and_origin(store: ModelStore) -> None:
    text = show(store, "tiny")
    assert text.startswith("tiny@2 (current)\n")
    measured = report_data(CLASSES, "multi").manifest.metrics
    scores = measured["per_class"]["no cap"]
    numbers = [f"{scores[name]:.3f}" for name in ("precision", "recall", "f1", "average_precision")]
    assert row(text, "no cap") == [*numbers, str(scores["support"]), "0.50", "no-cap"]
    assert row(text, "good")[-2:] == ["-", "good"]
    assert row(text, "macro F1") == [f"{measured['macro_f1']:.3f}"]
    assert row(text, "expected calibration error (ECE) before") == ["0.125"]
    assert row(text, "parent") == ["tiny@1"]
    assert "40: 30 to train, 10 to validate" in text
    assert int8_refusal_reason(report_data(CLASSES, "multi").manifest.parity) in " ".join(text.split())
    assert f"report: {store.resolve('tiny') / 'report' / 'index.html'}" in text


def test_a_version_without_metrics_or_report(store: ModelStore) -> None:
    text = show(store, "tiny@1")
    assert text.startswith("tiny@1\n")
    assert row(text, "disfigured") == ["-", "-", "-", "-", "-", "0.50", "disfigured"]
    assert "macro F1" not in text
    assert "report: this version has none" in text
    assert json.loads(show(store, "tiny@1", "--json"))["report"] is None


def test_without_a_name_it_shows_the_model_of_the_settings(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_MODEL", "tiny@1")
    assert show(store).startswith("tiny@1\n")
    with pytest.raises(NotFound, match="tiny@3"):
        show(store, "tiny@3")


def test_fit_and_regions_are_shown() -> None:
    def seen(**changes: Any) -> dict[str, str]:
        model, *_ = summary_sections(manifest_of(CLASSES, "multi").model_copy(update=changes))
        return {name: value for name, value in model.rows if name == "images" or name.startswith("part of")}

    assert seen() == {"images": "224 x 224 px, squashed to a square"}
    regions = {"top": Region(0.1, 0, 0.9, 1), "*": Region(0, 0, 1, 0.5)}
    assert seen(fit="pad", regions=regions) == {
        "images": "224 x 224 px, padded with their border to a square",
        "part of any other camera": "0,0,1,0.5",
        "part of camera top": "0.1,0,0.9,1",
    }


def test_reasons_are_read_as_sentences_and_other_lists_as_lists() -> None:
    manifest = manifest_of(CLASSES, "multi")
    settings = {"reasons": ["The bottle is cropped.", "Few images."], "crops": ["full", "detected"]}
    training = manifest.training.model_copy(update={"settings": settings})
    sections = summary_sections(manifest.model_copy(update={"training": training}))
    rows = {name: value for section in sections for name, value in section.rows}
    assert (rows["reasons"], rows["crops"]) == ("The bottle is cropped. Few images.", "full, detected")


def test_settings_say_which_learning_rate_is_whose() -> None:
    manifest = manifest_of(CLASSES, "multi")
    settings = HeadSettings().as_dict() | {"tuning": SETTINGS["top"].as_dict()}
    training = manifest.training.model_copy(update={"settings": settings})
    sections = summary_sections(manifest.model_copy(update={"training": training}))
    rows = dict(next(section.rows for section in sections if section.title == "Training"))
    assert (rows["head learning rate"], rows["fine-tuning learning rate"]) == ("0.005", "0.0003")
    assert rows["fine-tuning learning rate of the head"] == "0.003"
    assert rows["weights of the best epoch are kept"] == rows["head learning rate falls to zero"] == "yes"
    assert not rows.keys() & {"learning rate", "decays", "best epoch", "views", "standardised", "tuning"}


def test_each_measure_says_of_which_images_it_is() -> None:
    """The macro F1 of fp32 and int8 is of more images than that of the metrics, which is out of fold."""
    manifest = manifest_of(CLASSES, "multi")
    parity = {"images": 18, "fp32_macro_f1": 0.9234, "int8_class_agreement": 1.0}

    def exports(dataset: DatasetInfo, images: int = 18) -> dict[str, str]:
        changed = manifest.model_copy(update={"dataset": dataset, "parity": parity | {"images": images}})
        return dict(next(section.rows for section in summary_sections(changed) if section.title == "Exports"))

    assert exports(manifest.dataset) == {
        "images": "18, not trained on: 10 of the validation and 8 held out",
        "fp32: macro F1 on these images": "0.923",
        "int8: same most probable class as fp32": "1.000",
    }
    assert exports(manifest.dataset, images=10)["images"] == "10, not trained on: 10 of the validation"
    imported = manifest.dataset.model_copy(update={"images": 0, "train": 0, "validation": 0})
    assert exports(imported)["images"] == "18, not used to calibrate"
    assert overall_rows({"images": 10}) == (("images", "10 of the validation, not trained on"),)


def test_the_verdict_of_the_int8_gate_is_shown() -> None:
    refused = manifest_of(CLASSES, "multi")
    assert gate_verdict(refused).startswith("fp32 (litert-fp32): int8 ")
    earned = refused.model_copy(
        update={"parity": refused.parity | {"int8_labels_agreement": 1.0}, "cpu_engine": "litert"}
    )
    assert gate_verdict(earned) == "int8 (litert): it gives the same labels as fp32"
    assert gate_verdict(earned.model_copy(update={"parity": {}})) == "int8 (litert)"


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    assert [format_delta(value) for value in (-0.0004, 0.0, 0.25, -0.0625, None)] == [
        "+0.000",
        "+0.000",
        "+0.250",
        "-0.062",
        "-",
    ]


def test_only_the_classes_that_occurred_are_listed_if_there_are_many() -> None:
    classes = tuple(f"class {number}" for number in range(1001))
    manifest = report_data(classes, "single", images=5).manifest
    named = {name for name, *_ in class_rows(manifest)}
    assert {f"class {number}" for number in range(5)} <= named
    assert len(named) <= 10
    assert class_rows(manifest_of(classes, "single")) == []
    precise = CalibrationInfo(scale=(0.5,) * 1001, shift=(0.0,) * 1001, images=5, ece_before=0.1, ece_after=0.1)
    texts = [
        value
        for section in summary_sections(manifest.model_copy(update={"calibration": precise}))
        for _, value in section.rows
    ]
    assert max(map(len, texts)) < 400
