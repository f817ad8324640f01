"""What was understood of a dataset is told by each command that reads one, in the same words, and in its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

import sortline.cli
from model_store.commands import add_to
from model_store.datasets.dataset import load_dataset
from model_store.registry.store import ModelStore
from shared.errors import BadDataset
from tests.model_store.datasets.test_label_tables import write_images
from tests.model_store.tiny_bundle import copy_build

pytestmark = pytest.mark.usefixtures("plain_settings")


@pytest.fixture
def plain_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shut out sortline.toml and environment variables, and use a separate cache."""
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
    monkeypatch.setenv("SORTLINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Splits in a wrapper, a folder of a storage server, and names in several forms."""
    names = [f"{split}/{label}/{number}.png" for split in ("train", "test") for label in ("OK", "No-Cap", "no cap")
             for number in range(2)]  # fmt: skip
    return write_images(tmp_path / "set", *(f"export/{name}" for name in (*names, "train/OK/@eaDir/0.png")))


def check(*arguments: object) -> Result:
    return CliRunner().invoke(sortline.cli.app, ["models", "check-dataset", *map(str, arguments)])


def test_check_dataset_tells_all_of_it(dataset: Path) -> None:
    lines = load_dataset(dataset).reading.lines()
    assert [line.partition(" ")[0] for line in lines] == ["read", "train,", "one", "'OK'", "hidden"]
    text = check(dataset).stdout
    assert all(f"- {line}" in text for line in lines)


def test_its_json_has_the_same_facts(dataset: Path) -> None:
    reading = json.JSONDecoder().raw_decode(check(dataset, "--json", "--good-class", "ok").stdout)[0]["reading"]
    assert reading == {
        "wrapper": "export",
        "splits": {"train": 6, "test": 6},
        "merged": {"good": ["OK"], "no cap": ["No-Cap", "no cap"]},
        "like_good": [],
        "left_out": {"@eaDir": 1},
        "remarks": [],
    }


def run(store: ModelStore, *arguments: object) -> Result:
    app = typer.Typer()
    add_to(app)
    return CliRunner().invoke(app, [*map(str, arguments), "--model-store", str(store.root)], catch_exceptions=False)


def test_evaluate_measures_the_whole_or_what_is_held_out(tmp_path: Path, dataset: Path, tiny_bundle: Path) -> None:
    store = ModelStore(tmp_path / "models")
    store.publish("tiny", copy_build(tiny_bundle))
    arguments = ("evaluate", dataset, "--model", "tiny", "--json")
    with pytest.raises(BadDataset, match="OK"):
        run(store, *arguments)
    whole = run(store, *arguments, "--good-class", "ok")
    assert json.loads(whole.stdout)["images"] == 12
    assert "train, valid and test are read as splits" in whole.stderr
    assert json.loads(run(store, *arguments, "--good-class", "ok", "--held-out").stdout)["images"] == 6
    with pytest.raises(BadDataset, match=r"set/export/train holds out no image: .* no test/"):
        run(store, "evaluate", dataset / "export" / "train", "--good-class", "ok", "--held-out")


def test_archives_in_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.zip").touch()
    with pytest.raises(BadDataset, match=r"no labeled images: .* It holds data\.zip: unpack it"):
        load_dataset(tmp_path / "set")
