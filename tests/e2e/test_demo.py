"""`sortline demo` as a newcomer runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model_store.backbones.resolve import DEFAULT_HANDLE, resolve_backbone
from shared.settings import Settings
from tests.e2e.kit import environment, sortline
from tests.kit import command_line, wait_until, working_folder
from tests.model_store.backbones.package_index import from_index

pytestmark = pytest.mark.e2e


@pytest.fixture
def plant(settings: Settings, tiny_models: Path) -> Settings:
    """A model is there already: the demo starts streaming at once."""
    return settings.model_copy(update={"model_store": str(tiny_models)})


def _processes_of(folder: Path) -> list[str]:
    """Command lines of processes that work in `folder`."""
    others = (int(entry.name) for entry in Path("/proc").glob("[0-9]*") if int(entry.name) != os.getpid())
    return [command_line(pid) for pid in others if working_folder(pid) == folder.resolve()]


def test_every_image_has_exactly_one_result(plant: Settings, tmp_path: Path) -> None:
    done = sortline(
        "demo", "--seconds", "4", "--rate", "10", "--lines", "2", "--model", "tiny", "--json", settings=plant
    )
    assert done.returncode == 0, done.stderr
    assert "model tiny: already trained" in done.stderr
    summary = json.loads(done.stdout)
    assert summary["submitted"] == summary["results"] == 80
    assert (summary["missing"], summary["doubled"], summary["interrupted"]) == (0, 0, False)
    assert sum(summary["outcomes"].values()) == 80
    assert summary["images_per_s"] > 0
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]
    assert Path(summary["contact_sheet"]).is_file()
    assert _processes_of(tmp_path) == []


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_it_leaves_no_process_behind(plant: Settings, tmp_path: Path, sign: signal.Signals) -> None:
    command = [sys.executable, "-m", "sortline", "demo", "--seconds", "120", "--rate", "5", "--model", "tiny", "--json"]
    demo = subprocess.Popen(
        command, env=environment(plant), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    out = tmp_path / "demo-out"
    wait_until(lambda: (out / "line-2.json").exists(), "both cameras were started")
    wait_until(lambda: len(_processes_of(tmp_path)) >= 7, "demo, server, worker and two cameras, all supervised")
    demo.send_signal(sign)
    stdout, _ = demo.communicate(timeout=60)
    if sign == signal.SIGINT:
        summary = json.loads(stdout)
        assert demo.returncode == 0
        assert summary["interrupted"]
        assert (summary["missing"], summary["doubled"]) == (0, 0)
    wait_until(lambda: _processes_of(tmp_path) == [], "all processes of the demo end")


@pytest.fixture
def backbone_cache(settings: Settings) -> None:
    """The cache has the demo's backbone, which takes half a minute of a core to build and is tested elsewhere."""
    folder = from_index(resolve_backbone, DEFAULT_HANDLE).path.parent
    shutil.copytree(folder, settings.cache_path / folder.parent.name / folder.name)


@pytest.mark.timeout(1200)  # a training, which takes minutes on a busy machine
@pytest.mark.usefixtures("backbone_cache")
def test_the_first_run_trains_the_model(settings: Settings) -> None:
    """Few images: one of them has to be classified before its deadline, by a real backbone, to name the model."""
    done = sortline("demo", "--seconds", "4", "--rate", "3", "--json", settings=settings, patience_s=900)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["model"].startswith("demo@1 on litert")
    assert (summary["missing"], summary["doubled"]) == (0, 0)
    shown = sortline("models", "show", "demo", "--json", settings=settings)
    metrics = json.loads(shown.stdout)["metrics"]
    # Only a head, trained on a fifth of the project's own frames. The bounds are wide: processors round differently.
    assert metrics["macro_f1"] > 0.75
    assert metrics["map"] > 0.85


def test_an_existing_server_can_be_used(plant: Settings) -> None:
    done = sortline(
        "demo",
        "--seconds",
        "2",
        "--rate",
        "10",
        "--redis-url",
        plant.redis_url,
        "--model",
        "tiny",
        "--json",
        settings=plant,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"] == 40


def test_a_server_that_is_away_is_named(plant: Settings) -> None:
    done = sortline("demo", "--redis-url", "redis://127.0.0.1:1/0", "--model", "tiny", settings=plant)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
