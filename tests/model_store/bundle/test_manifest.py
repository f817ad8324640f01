"""What a manifest says of rechecks, and that manifests without them stay as they were."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from model_store.bundle.manifest import MANIFEST_FILE, MAX_RECHECK_MARGIN, Manifest


@pytest.fixture
def values(tiny_bundle: Path) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((tiny_bundle / MANIFEST_FILE).read_text())
    return loaded


def test_a_manifest_without_a_margin_has_no_rechecks_and_is_written_as_before(values: dict[str, object]) -> None:
    """Releases that don't know the field refuse it."""
    assert "int8_recheck_margin" not in values
    manifest = Manifest.model_validate(values)
    assert manifest.int8_recheck_margin == 0
    assert "int8_recheck_margin" not in json.loads(manifest.model_dump_json())


def test_a_margin_is_kept(values: dict[str, object]) -> None:
    manifest = Manifest.model_validate(values | {"int8_recheck_margin": 0.3125})
    again = Manifest.model_validate_json(manifest.model_dump_json())
    assert again.int8_recheck_margin == 0.3125
    assert again == manifest


@pytest.mark.parametrize("margin", [-0.1, MAX_RECHECK_MARGIN + 1, math.nan, math.inf, "wide", None])
def test_an_impossible_margin_is_refused(values: dict[str, object], margin: object) -> None:
    with pytest.raises(ValidationError, match="int8_recheck_margin"):
        Manifest.model_validate(values | {"int8_recheck_margin": margin})
