"""Fixtures for tests of sources: a folder, and sources of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.producer.sources.kit import MakeSource, sources_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def make_source(folder: Path) -> Iterator[MakeSource]:
    """Makes sources of the folder, by default with the kernel's reports; all are closed at the end."""
    with sources_of(folder) as make:
        yield make
