"""Fixtures of the archive's tests: the archive's folder, and settings that use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.settings import Settings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The archive's folder."""
    root = tmp_path / "archive"
    root.mkdir()
    return root


@pytest.fixture
def archiving(settings: Settings, root: Path) -> Settings:
    """Settings that archive every image."""
    return settings.model_copy(update={"archive_dir": root, "archive_share": 1.0})
