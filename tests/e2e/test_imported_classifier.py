"""The tutorial's first step as a plant would take it: a ready-made classifier from a server, on a line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from shared.settings import Settings
from tests.e2e import kit
from tests.model_store.backbones.module_server import module_server, tar_gz
from tests.model_store.tiny_bundle import random_images
from tests.model_store.tiny_modules import save_classifier

pytestmark = pytest.mark.e2e


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
