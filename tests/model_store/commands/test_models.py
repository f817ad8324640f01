"""The commands that only read a store, as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from model_store.bundle.files import read_manifest
from model_store.bundle.manifest import GOLDEN_FILE, INT8_FILE, MANIFEST_FILE
from model_store.commands import add_to
from model_store.registry.store import ModelStore
from shared.errors import BadSetting, NotFound
from shared.images.crop_regions import Region
from tests.model_store.tiny_bundle import copy_build, random_images


@pytest.fixture(autouse=True)
def plain_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shut out the developer's own sortline.toml and environment variables, and any GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def store(tmp_path: Path, tiny_bundle: Path) -> ModelStore:
    store = ModelStore(tmp_path / "models")
    for _ in range(2):
        store.publish("tiny", copy_build(tiny_bundle))
    return store


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three images (one of them in a linked folder), a broken image, and files that aren't images."""
    folder = tmp_path / "images"
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    (folder / "deeper").symlink_to(tmp_path / "elsewhere")
    for name, pixels in zip(("a.png", "b.PNG", "deeper/c.png"), random_images(3, size_px=48), strict=True):
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "labels.csv").write_text("filename,labels\n")
    (folder / ".hidden").mkdir()
    for name in ("._a.png", ".hidden/d.png"):
        (folder / name).write_bytes(b"what a file manager leaves")
    (folder / "folder.png").mkdir()
    return folder


def run(store: ModelStore, *arguments: str) -> Result:
    app = typer.Typer()
    add_to(app)
    return CliRunner().invoke(app, [*arguments, "--model-store", str(store.root)])


def test_classify_reports_a_broken_file_and_classifies_the_others(store: ModelStore, images: Path) -> None:
    result = run(store, "classify", str(images), "--model", "tiny", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["model"] == {"name": "tiny", "version": 2, "engine": "litert"}
    by_name = {Path(image["file"]).name: image for image in answer["images"]}
    assert by_name.keys() == {"a.png", "b.PNG", "c.png", "broken.jpg"}
    assert by_name["broken.jpg"]["error"]
    assert by_name["broken.jpg"]["lane"] is None
    for name in ("a.png", "b.PNG", "c.png"):
        assert by_name[name]["error"] is None
        assert by_name[name]["labels"][0]["label"] in {"good", "no cap", "disfigured"}
        assert by_name[name]["lane"] in {"good", "no-cap", "disfigured", "manual"}


@pytest.mark.parametrize("max_batch", ["1", "2", "16"])
def test_classify_answers_do_not_depend_on_the_other_images(
    store: ModelStore, images: Path, monkeypatch: pytest.MonkeyPatch, max_batch: str
) -> None:
    alone = [
        json.loads(run(store, "classify", str(images / name), "--model", "tiny", "--json").stdout)["images"][0]
        for name in ("a.png", "b.PNG", "deeper/c.png")
    ]
    monkeypatch.setenv("SORTLINE_MAX_BATCH", max_batch)
    together = json.loads(run(store, "classify", str(images), "--model", "tiny", "--json").stdout)["images"]
    assert [image for image in together if not image["error"]] == alone


def test_classify_as_text(store: ModelStore, images: Path) -> None:
    result = run(store, "classify", str(images / "a.png"), "--model", "tiny@1", "--engine", "litert-fp32")
    assert result.exit_code == 0
    assert str(images / "a.png") in result.stdout
    assert " -> " in result.stdout


@pytest.mark.parametrize(
    ("changes", "uncertain"),
    [
        pytest.param({"uncertain_margin": 0.5}, True, id="everything is near a threshold"),
        pytest.param({"uncertain_margin": 0.0, "thresholds": {"no cap": 0.0}}, False, id="a defect is reached"),
    ],
)
def test_classify_marks_uncertain_answers(
    store: ModelStore, images: Path, tiny_bundle: Path, changes: dict[str, object], uncertain: bool
) -> None:
    def build(folder: Path, version: int) -> None:
        copy_build(tiny_bundle)(folder, version)
        manifest = read_manifest(folder)
        policy = manifest.policy.model_copy(update=changes)
        (folder / MANIFEST_FILE).write_text(manifest.model_copy(update={"policy": policy}).model_dump_json())

    store.publish("tiny", build)
    asked = "classify", str(images), "--model", "tiny@3"
    found = json.loads(run(store, *asked, "--json").stdout)["images"]
    assert {image["uncertain"] for image in found} == {uncertain, None}
    assert [image["uncertain"] is None for image in found] == [image["error"] is not None for image in found]
    lines = [line for line in run(store, *asked).stdout.splitlines() if " -> " in line]
    assert [line.endswith("  (uncertain)") for line in lines] == [uncertain] * 3


def test_classify_takes_the_region_of_the_camera(store: ModelStore, tiny_bundle: Path, tmp_path: Path) -> None:
    left, right = Region(0, 0, 0.5, 1), Region(0.5, 0, 1, 1)

    def build(folder: Path, version: int) -> None:
        copy_build(tiny_bundle)(folder, version)
        changed = read_manifest(folder).model_copy(update={"regions": {"side": left, "*": right}})
        (folder / MANIFEST_FILE).write_text(changed.model_dump_json())

    store.publish("tiny", build)
    halves = random_images(2, seed=5)
    for name, pixels in zip(("left", "right", "both"), (*halves, np.concatenate(halves, axis=1)), strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")

    def classified(name: str, model: str, *options: str) -> object:
        result = run(store, "classify", str(tmp_path / name), "--model", model, "--json", "--top", "3", *options)
        (image,) = json.loads(result.stdout)["images"]
        return image["best"]

    assert classified("both.png", "tiny@3", "--camera", "side") == classified("left.png", "tiny@1")
    assert classified("both.png", "tiny@3") == classified("right.png", "tiny@1")
    assert classified("both.png", "tiny@3", "--camera", "top") == classified("right.png", "tiny@1")
    assert classified("left.png", "tiny@1") != classified("right.png", "tiny@1")


def test_classify_names_missing_files_and_empty_folders(store: ModelStore, images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(
        store,
        "classify",
        str(tmp_path / "absent.png"),
        str(tmp_path / "empty"),
        str(images / "a.png"),
        "--model",
        "tiny",
    )
    assert result.exit_code == 1
    assert "absent.png: can't be read: No such file" in result.stderr
    assert "empty: no images in this folder" in result.stderr
    assert " -> " in result.stdout


def test_classify_refuses_an_unknown_model_or_engine(store: ModelStore, images: Path) -> None:
    assert isinstance(run(store, "classify", str(images), "--model", "bottles").exception, NotFound)
    assert isinstance(run(store, "classify", str(images), "--engine", "onnx").exception, BadSetting)


def test_list(store: ModelStore) -> None:
    rows = json.loads(run(store, "models", "list", "--json").stdout)
    assert [(row["name"], row["version"], row["current"]) for row in rows] == [("tiny", 1, False), ("tiny", 2, True)]
    text = run(store, "models", "list").stdout.splitlines()
    first, second = (line for line in text if line.startswith("tiny@"))
    assert first.startswith("tiny@1") and "*" not in first
    assert second.startswith("tiny@2") and "*" in second


@pytest.mark.parametrize(
    ("file", "content", "says", "version"),
    [
        ("current", b"garbage", "current holds 'garbage', but should hold the numbers of versions", None),
        ("canary.json", b"{", "canary.json is not a canary of this release", None),
        ("current", b"7", "the current version other@7 is missing or incomplete: promote or publish another", 7),
        ("canary.json", b'{"version": 7, "share": 0.1}', "the canary other@7 is missing or incomplete", 7),
    ],
)
def test_list_shows_what_is_wrong_with_one_model_and_lists_the_others(
    store: ModelStore, tiny_bundle: Path, file: str, content: bytes, says: str, version: int | None
) -> None:
    store.publish("other", copy_build(tiny_bundle, name="other"))
    (store.root / "other" / file).write_bytes(content)
    asked = run(store, "models", "list", "--json")
    assert asked.exit_code == 1
    rows = json.loads(asked.stdout)
    healthy = [(row["name"], row["version"]) for row in rows if row["error"] is None]
    assert healthy == [("other", 1), ("tiny", 1), ("tiny", 2)]
    assert [row["current"] for row in rows if row["name"] == "tiny"] == [False, True]
    (wrong,) = (row for row in rows if row["error"])
    assert (wrong["name"], wrong["version"]) == ("other", version)
    assert says in wrong["error"]
    text = run(store, "models", "list")
    assert text.exit_code == 1
    shown = " ".join(text.stdout.split())
    assert all(word in shown for word in ("tiny@2", "other@1", says.split()[-1]))


def test_list_and_verify_of_an_empty_store(tmp_path: Path) -> None:
    empty = ModelStore(tmp_path / "nothing")
    for command in ("list", "verify"):
        result = run(empty, "models", command)
        assert result.exit_code == 0
        assert "sortline train" in result.stdout
        assert json.loads(run(empty, "models", command, "--json").stdout) == []


def test_show(store: ModelStore) -> None:
    shown = json.loads(run(store, "models", "show", "tiny@1", "--json").stdout)
    assert (shown["name"], shown["version"], shown["path"]) == ("tiny", 1, str(store.resolve("tiny@1")))
    assert INT8_FILE in shown["files"]
    assert isinstance(run(store, "models", "show", "tiny@3").exception, NotFound)


def test_show_without_a_name_takes_the_model_of_the_settings(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORTLINE_MODEL", "tiny@1")
    assert json.loads(run(store, "models", "show", "--json").stdout)["version"] == 1


@pytest.mark.training
def test_verify_replays_on_every_engine(store: ModelStore) -> None:
    result = run(store, "models", "verify", "tiny@1", "--json")
    assert result.exit_code == 0
    checks = json.loads(result.stdout)
    assert [check["check"] for check in checks] == ["files", "litert", "litert-fp32", "tensorflow"]
    assert {check["model"] for check in checks} == {"tiny@1"}
    assert not any(check["error"] for check in checks)


@pytest.mark.slow
def test_verify_finds_the_damaged_version_among_all(store: ModelStore) -> None:
    model = store.resolve("tiny@1") / INT8_FILE
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    result = run(store, "models", "verify", "--json")
    assert result.exit_code == 1
    wrong = [check for check in json.loads(result.stdout) if check["error"]]
    assert [(check["model"], check["check"]) for check in wrong] == [("tiny@1", "files")]
    assert INT8_FILE in wrong[0]["error"]


def test_verify_finds_incomplete_versions(store: ModelStore) -> None:
    (store.resolve("tiny@2") / GOLDEN_FILE).unlink()
    for arguments in ((), ("tiny",), ("tiny@2",)):
        result = run(store, "models", "verify", *arguments)
        assert result.exit_code == 1
        assert GOLDEN_FILE in result.stdout
    shutil.rmtree(store.root / "tiny" / "000002")
    assert isinstance(run(store, "models", "verify", "tiny@2").exception, NotFound)
