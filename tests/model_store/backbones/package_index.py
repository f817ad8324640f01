"""Backbones from the package index, for tests: without one, the test is skipped at a desk, and fails in CI."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from model_store.backbones.resolve import Backbone
from shared.errors import NotFound
from shared.settings import Settings


def from_index(resolve: Callable[..., Backbone], handle: str) -> Backbone:
    """What `resolve_backbone` or `resolve_classifier` gives for a wheel."""
    try:
        return resolve(handle, cache=Settings().cache_path)
    except NotFound as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{handle}: {error}")
