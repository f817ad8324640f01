"""Two ways to train a head, timed on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from model_store.commands import add_to
from model_store.training import head_timing
from tests.model_store.tiny_backbone import save_tiny_backbone, write_labeled

pytestmark = pytest.mark.training

KINDS = ("good", "no cap", "pigmented", "no cap|pigmented")


def invoked(place: Path, *arguments: str) -> Result:
    app = typer.Typer()
    add_to(app)
    fixed = ["--backbone", str(place / "backbone"), "--cache-dir", str(place / "cache"), "--seed", "5"]
    result = CliRunner().invoke(app, ["models", "time-head", str(place / "dataset"), *fixed, *arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def test_cached_and_recomputed_features_give_the_same_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_backbone(tmp_path / "backbone")
    write_labeled(tmp_path / "dataset", {f"{index:03}\x9b.png": KINDS[index % 4] for index in range(49)})
    (tmp_path / "dataset" / "048\x9b.png").write_bytes(b"no image")
    timings = json.loads(invoked(tmp_path, "--json").stdout)
    assert (timings["images"], timings["epochs"]) == (36, 25)
    # Both start with the same weights and take the same steps, so the heads are equal except for rounding.
    assert timings["accuracy_recomputed"] == timings["accuracy_cached"]
    assert min(timings[name] for name in ("recomputed_s", "cached_s", "head_s", "ratio", "head_ratio")) > 0
    assert [item["file"] for item in timings["unreadable"]] == [r"048\x9b.png"]
    monkeypatch.setattr(head_timing, "time_head", lambda *given, **more: timings)
    assert r"not used: 048\x9b.png" in invoked(tmp_path).stderr
