"""Fixtures of the tests of followers: a store with versions of its own, the settings that serve it, and a follower."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.settings import Settings
from tests.worker.models.followers import Post
from tests.worker.models.versions import Versions, own_versions


@pytest.fixture
def setting(settings: Settings, tiny_models: Path) -> tuple[Versions, Settings]:
    return own_versions(settings, tiny_models)


@pytest.fixture
def versions(setting: tuple[Versions, Settings]) -> Versions:
    return setting[0]


@pytest.fixture
def post(setting: tuple[Versions, Settings]) -> Post:
    return Post(setting[1])
