"""`sortline train`: which backbone and crop its flags choose. `--look`, the former name of `--crop`, is hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from model_store.backbones.resolve import DEFAULT_HANDLE, HANDLES_BY_SIZE
from model_store.commands import add_to
from model_store.commands.options import DEFAULT_BACKBONE
from model_store.publishing.train_options import TrainOptions
from shared.errors import BadSetting


class Stopped(Exception):
    """Raised in place of a training run."""


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    add_to(app)
    return CliRunner().invoke(app, ["train", *arguments])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainOptions]:
    """The options that trainings were started with."""
    started: list[TrainOptions] = []

    def start(_: Path, options: TrainOptions, **__: Any) -> None:
        started.append(options)
        raise Stopped

    monkeypatch.setattr("model_store.publishing.train.train_and_publish", start)
    return started


@pytest.mark.parametrize(
    ("flags", "crop"),
    [
        ((), "auto"),
        (("--crop", "auto"), "auto"),
        (("--crop", "detected"), "detected"),
        (("--crop", "full"), "full"),
        (("--look", "auto"), "auto"),
        (("--look", "found"), "detected"),
        (("--look", "whole"), "full"),
    ],
)
def test_crop_and_its_former_name_choose_the_crop(
    trained: list[TrainOptions], flags: tuple[str, ...], crop: str, tmp_path: Path
) -> None:
    assert isinstance(invoke(str(tmp_path), "--model-store", str(tmp_path), *flags).exception, Stopped)
    assert [options.crop for options in trained] == [crop]


@pytest.mark.parametrize(
    ("flags", "backbone"),
    [
        ((), HANDLES_BY_SIZE["normal"]),
        (("--size", "normal"), HANDLES_BY_SIZE["normal"]),
        (("--size", "small"), HANDLES_BY_SIZE["small"]),
        (("--backbone", "keras:InceptionV3"), "keras:InceptionV3"),
    ],
)
def test_a_size_or_a_handle_chooses_the_backbone(
    trained: list[TrainOptions], flags: tuple[str, ...], backbone: str, tmp_path: Path
) -> None:
    assert isinstance(invoke(str(tmp_path), "--model-store", str(tmp_path), *flags).exception, Stopped)
    assert [options.backbone for options in trained] == [backbone]


@pytest.mark.parametrize("size", ["normal", "small"])
def test_a_size_together_with_a_backbone_is_refused(trained: list[TrainOptions], size: str, tmp_path: Path) -> None:
    failed = invoke(str(tmp_path), "--model-store", str(tmp_path), "--size", size, "--backbone", "./module").exception
    assert isinstance(failed, BadSetting)
    assert f"--backbone ./module and --size {size}: a size stands for a backbone. Give one of them." in str(failed)
    assert trained == []


def test_help_names_the_default_backbone() -> None:
    assert DEFAULT_BACKBONE == DEFAULT_HANDLE, "--help imports no backbone, so the name is written twice"


@pytest.mark.parametrize("crop", ["auto", "full"])
def test_crop_and_its_former_name_together_are_refused(trained: list[TrainOptions], crop: str, tmp_path: Path) -> None:
    failed = invoke(str(tmp_path), "--model-store", str(tmp_path), "--crop", crop, "--look", "whole").exception
    assert isinstance(failed, BadSetting)
    assert f"--crop {crop} and --look whole: --look is the former name of --crop. Give only --crop." in str(failed)
    assert trained == []


@pytest.mark.parametrize("flags", [("--crop", "found"), ("--look", "full"), ("--look", "detected")])
def test_each_name_has_its_own_values(flags: tuple[str, ...], tmp_path: Path) -> None:
    assert invoke(str(tmp_path), *flags).exit_code == 2


def test_help_shows_only_crop() -> None:
    words = " ".join(invoke("--help").stdout.replace("│", " ").split())
    assert "--crop" in words
    assert "<auto|detected|full>" in words
    assert "(default: auto: full, or with MobileNetV2 and InceptionV3 what measures better)" in words
    assert "--look" not in words
