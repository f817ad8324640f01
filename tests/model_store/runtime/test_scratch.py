"""Disk errors in the cache or the scratch folder end in one line that names the setting to change."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from model_store.backbones.resolve import resolve_backbone
from model_store.commands import add_to
from model_store.runtime.scratch import cache_write_errors, scratch_folder
from shared.errors import BadSetting, StoreUnavailable
from tests.model_store.tiny_backbone import save_tiny_backbone, write_class_folders

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
# The error that TensorFlow raises is not an OSError.
FULL_BY_TENSORFLOW = RuntimeError("{{function_node SaveV2}} /x/variables.data; No space left on device [Op:SaveV2]")


@pytest.fixture
def no_folder(tmp_path: Path) -> Path:
    """A path below a file."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


@pytest.mark.slow
def test_commands_name_a_cache_that_cant_be_used(no_folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    add_to(app)
    module = str(save_tiny_backbone(tmp_path / "module"))
    dataset = str(write_class_folders(tmp_path / "dataset", per_class=2))
    cache = ["--cache-dir", str(no_folder)]
    for command in (
        ["models", "fetch-backbone", module],
        ["train", dataset, "--backbone", module, "--model-store", str(tmp_path / "models")],
    ):
        failed = CliRunner().invoke(app, [*command, *cache]).exception
        assert isinstance(failed, BadSetting)
        assert f"cache_dir = {no_folder} can't be used: Not a directory: {no_folder}" in str(failed)
        assert "--cache-dir" in str(failed)


@pytest.mark.parametrize("error", [FULL, FULL_BY_TENSORFLOW])
def test_a_disk_that_fills_while_a_backbone_is_fetched_is_reported(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    module = save_tiny_backbone(tmp_path / "module")
    monkeypatch.setattr("model_store.backbones.inspection.inspect_module", full)
    with pytest.raises(BadSetting, match=r"cache_dir = .*cache can't be used: No space left on device\. Free some"):
        resolve_backbone(str(module), cache=tmp_path / "cache")


@pytest.mark.parametrize("error", [FULL, FULL_BY_TENSORFLOW])
def test_a_disk_that_fills_in_a_scratch_folder_is_reported(error: Exception) -> None:
    named = pytest.raises(BadSetting, match=r"scratch folder .*sortline-export-\w+ can't be used: No space .*TMPDIR")
    with named, scratch_folder("sortline-export-"):
        raise error


def test_a_missing_scratch_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.mkdtemp", none)
    named = pytest.raises(BadSetting, match=r"scratch folder for temporary files .*No usable .*TMPDIR")
    with named, scratch_folder("sortline-"):
        pass


@pytest.mark.parametrize("error", [StoreUnavailable("No space left on device"), ValueError("a defect")])
def test_other_errors_are_passed_on_unchanged(error: Exception, tmp_path: Path) -> None:
    for block in (scratch_folder("sortline-"), cache_write_errors(tmp_path)):
        with pytest.raises(type(error), match=str(error)), block:
            raise error
