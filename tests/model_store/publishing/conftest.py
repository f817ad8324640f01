"""Fixtures for tests of the training: its command line, and two datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model_store.publishing.kit import KINDS, Bench
from tests.model_store.tiny_backbone import picture, save_tiny_backbone, write_class_folders, write_labeled


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("bench")
    return Bench(root, save_tiny_backbone(root / "backbone"))


@pytest.fixture(scope="module")
def several(bench: Bench) -> Path:
    """80 images, a quarter of them with two labels; the last 16 held out."""
    rows = {f"{index:03}.png": KINDS[index % 4] for index in range(80)}
    folder = write_labeled(bench.root / "several", rows)
    (folder / "held_out.txt").write_text("\n".join(list(rows)[-16:]))
    return folder


@pytest.fixture(scope="module")
def folders(bench: Bench) -> Path:
    """36 images in class folders, and a broken one with a newline in its name."""
    folder = write_class_folders(bench.root / "folders", per_class=12)
    (folder / "good" / "bro\nken.png").write_bytes(picture("good", 1)[:60])
    return folder
