"""Fixtures for tests of the training: its command line, and two datasets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.model_store.conftest import CachedModule
from tests.model_store.publishing.kit import KINDS, Bench
from tests.model_store.tiny_backbone import picture, write_class_folders, write_labeled


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, opaque_module: CachedModule) -> Bench:
    root = tmp_path_factory.mktemp("bench")
    shutil.copytree(opaque_module.cache, root / "cache")
    return Bench(root, opaque_module.module)


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
