"""`sortline upload FOLDER --wait --out r.csv`: 200 files, five of them broken in different ways."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from shared.settings import Settings
from tests.e2e.kit import ready, sortline, stop, worker
from tests.kit import BOTTLES, wait_until

pytestmark = pytest.mark.e2e

FILES = 200


def _break(folder: Path) -> list[str]:
    """Break five files, each in its own way; their names."""
    names = sorted(path.name for path in folder.iterdir())[10:190:36]
    cut, text, empty, zeros, huge = (folder / name for name in names)
    cut.write_bytes(cut.read_bytes()[:3000])
    text.write_text("<html>camera offline</html>")
    empty.write_bytes(b"")
    data = zeros.read_bytes()
    zeros.write_bytes(data[:64] + bytes(len(data) - 64))
    Image.new("1", (9000, 9000)).save(huge, format="PNG")  # 81 megapixels in a few KB
    return names


def test_195_sorted_5_rejected_each_with_its_own_reason(settings: Settings, tiny_models: Path, tmp_path: Path) -> None:
    folder, out, log = tmp_path / "photos", tmp_path / "r.csv", tmp_path / "worker.log"
    folder.mkdir()
    for path in sorted(BOTTLES.glob("*.jpg"))[:FILES]:
        shutil.copy(path, folder)
    broken = _break(folder)
    plant = settings.model_copy(update={"model_store": str(tiny_models), "model": "tiny"})
    with worker(plant, log=log) as process:
        wait_until(lambda: ready(log), "the worker is ready")
        done = sortline("upload", str(folder), "--wait", "--out", str(out), settings=plant)
        assert stop(process) == 0
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == FILES
    assert Counter(row["outcome"] for row in rows) == {"sorted": FILES - 5, "rejected": 5}
    rejected = {Path(row["file"]).name: row["error"] for row in rows if row["outcome"] == "rejected"}
    assert sorted(rejected) == broken
    assert len(set(rejected.values())) == 5, f"not each its own reason: {rejected}"
    assert all(row["labels"] and row["lane"] for row in rows if row["outcome"] == "sorted")
