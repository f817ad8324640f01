"""Trainings that are refused at their start, and trained models that are kept when an export is refused."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_store.bundle.files import open_bundle
from model_store.bundle.manifest import FP32_FILE, INT8_FILE
from model_store.bundle.policy import Mode
from model_store.export.exporter import export
from model_store.publishing.publish import Training, _kept_if_stopped
from model_store.runtime.progress import ProgressSteps
from model_store.training.history import Epoch
from model_store.training.transfer import TrainedModel
from shared.errors import BadBundle, BadDataset, BadSetting, SortlineError, StoreUnavailable
from tests.model_store.publishing.kit import Bench, commands
from tests.model_store.tiny_backbone import write_class_folders

pytestmark = pytest.mark.training

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
# The error that TensorFlow raises is not an OSError.
FULL_BY_TENSORFLOW = RuntimeError("{{function_node SaveV2}} /x/variables.data; No space left on device [Op:SaveV2]")


class Ended(Exception):
    """The training is done, and nothing is exported."""


@pytest.fixture(scope="module")
def trained(bench: Bench, folders: Path) -> TrainedModel:
    """The model that a training on `folders` gives."""
    found: list[TrainedModel] = []

    def ended(training: Training, **_: Any) -> None:
        found.append(training.model)
        raise Ended

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("model_store.publishing.train.publish", ended)
        with pytest.raises(Ended):
            bench.train(folders, "--name", "ended")
    return found[0]


@pytest.fixture
def trained_already(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings on `folders` give this model at once: what is tested is what becomes of it."""
    monkeypatch.setattr("model_store.publishing.train.train_model", lambda *_, **__: trained)


def test_a_dataset_that_cannot_be_trained_on_is_refused_at_the_start(bench: Bench, several: Path) -> None:
    with pytest.raises(BadSetting, match="opaque module"):
        bench.train(several, "--fine-tune", "top")
    with pytest.raises(BadDataset, match="Use --mode multi"):
        bench.train(several, "--mode", "single")
    defects = write_class_folders(bench.root / "defects", per_class=4)
    shutil.rmtree(defects / "good")
    with pytest.raises(BadDataset, match="'no cap' 0, 'pigmented' 0"):
        bench.train(defects, "--mode", "multi")
    assert "bottles" not in bench.store.names()


@pytest.mark.parametrize("flags", [("--learning-rate", 0), ("--learning-rate", "nan"), ("--learning-rate", 2)])
def test_an_impossible_learning_rate_is_refused(bench: Bench, folders: Path, flags: tuple[object, ...]) -> None:
    with pytest.raises(BadSetting, match=r"--learning-rate \S+ should be above 0 and at most 1"):
        bench.train(folders, *flags)


def test_a_training_that_diverges_ends_at_once(bench: Bench, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverged(phase: str, number: int, epochs: int, mode: Mode, values: dict[str, float]) -> Epoch:
        return Epoch(phase, number, epochs, mode, values | {"loss": math.nan})

    monkeypatch.setattr("model_store.training.head.Epoch", diverged)
    with pytest.raises(BadSetting, match=r"loss became nan in head epoch 1: .* Set a lower --learning-rate"):
        bench.train(folders, "--name", "diverged", "--learning-rate", 1)
    assert bench.store.versions("diverged") == []


@pytest.mark.usefixtures("trained_already")
def test_a_model_whose_export_is_broken_is_kept_and_can_be_published(
    bench: Bench, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: Any, folder: Path, **options: Any) -> None:
        export(module, folder, **options)
        shutil.copy(folder / INT8_FILE, folder / FP32_FILE)

    monkeypatch.setattr("model_store.publishing.publish.export", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(
        BadBundle, match=r"exported fp32 differ by .* nothing is published.*`sortline models publish"
    ) as caught:
        bench.train(folders, "--name", "kept")
    assert bench.store.versions("kept") == []
    (kept,) = tmp_path.glob("sortline-trained-*")
    assert str(kept) in str(caught.value)
    published = bench.json("models", "publish", kept)
    assert (published["name"], published["version"]) == ("kept", 1)
    assert open_bundle(Path(published["path"])).manifest.metrics["accuracy"] > 0.9


@pytest.mark.usefixtures("trained_already")
def test_what_the_converter_refuses_is_kept_as_a_saved_model(
    bench: Bench, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr("model_store.export.quantization.to_int8", refused)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(BadBundle, match=r"can't be exported: no such operator\. The trained model is kept as a S"):
        bench.train(folders, "--name", "refused")
    (kept,) = tmp_path.glob("sortline-trained-*")
    assert (kept / "saved_model" / "saved_model.pb").is_file()


@pytest.mark.usefixtures("trained_already")
@pytest.mark.parametrize(
    "stop", [FULL, FULL_BY_TENSORFLOW, KeyboardInterrupt()], ids=["disk full", "disk full, by TensorFlow", "Ctrl-C"]
)
def test_a_saved_model_outlives_a_full_disk_and_an_interruption(
    stop: BaseException, bench: Bench, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise stop

    monkeypatch.setattr("model_store.export.quantization.to_int8", stopped)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    flags = ["--backbone", bench.backbone, "--cache-dir", bench.root / "cache", "--model-store", bench.store.root]
    done = CliRunner().invoke(commands(), ["train", str(folders), *map(str, flags), "--name", "stopped"])
    (kept,) = tmp_path.glob("sortline-trained-*")
    assert (kept / "saved_model" / "saved_model.pb").is_file()
    where = f"The trained model is kept as a SavedModel: {kept / 'saved_model'}"
    if isinstance(stop, KeyboardInterrupt):
        assert where in done.stderr.splitlines()
    else:
        assert isinstance(done.exception, BadSetting)
        reason = rf"the scratch folder {tmp_path} can't be used: No space .*TMPDIR.* {where}"  # a folder that is there
        assert re.fullmatch(reason, str(done.exception))


def test_a_kept_model_that_cannot_be_read_again_is_still_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("model_store.publishing.publish.open_bundle", unreadable)
    folder = tmp_path / "sortline-export-1"
    (folder / "saved_model").mkdir(parents=True)
    (folder / "saved_model" / "saved_model.pb").touch()
    where = tmp_path / "sortline-trained-1" / "saved_model"
    with (
        pytest.raises(BadBundle, match=rf"no such operator\. The trained model is kept as a SavedModel: {where}"),
        _kept_if_stopped(folder, steps=ProgressSteps()),
    ):
        raise RuntimeError("no such operator")


@pytest.mark.usefixtures("trained_already")
@pytest.mark.parametrize(
    ("step", "is_kept"), [("publishing.publish.export", False), ("export.quantization.to_int8", True)]
)
def test_sigterm_ends_a_training_in_good_order(
    step: str, is_kept: bool, bench: Bench, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the model is saved, nothing is left of it; afterwards it is kept."""
    monkeypatch.setattr(f"model_store.{step}", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    flags = ["--backbone", bench.backbone, "--cache-dir", bench.root / "cache", "--model-store", bench.store.root]
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what the test's own process does with it
    try:
        done = CliRunner().invoke(commands(), ["train", str(folders), *map(str, flags), "--name", "terminated"])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, former)
    kept = [
        f"The trained model is kept as a SavedModel: {path / 'saved_model'}" for path in tmp_path.glob("sortline-*")
    ]
    assert (done.exit_code, len(kept)) == (143, int(is_kept))
    assert done.stderr.splitlines()[-1 - len(kept) :] == [*kept, "sortline: ended by SIGTERM."]
    assert bench.store.versions("terminated") == []


@pytest.mark.usefixtures("trained_already")
@pytest.mark.parametrize("error", [FULL, FULL_BY_TENSORFLOW])
def test_a_disk_that_is_full_before_the_model_is_saved_is_reported(
    error: Exception, bench: Bench, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("model_store.publishing.publish.export", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(BadSetting, match=r"scratch folder .*sortline-export-\w+ can't be used: No space .*TMPDIR"):
        bench.train(folders, "--name", "full")
    assert not list(tmp_path.iterdir())


def test_a_refused_command_leaves_no_trace_in_the_store(bench: Bench, several: Path) -> None:
    with pytest.raises(BadDataset, match="nosuch does not exist"):
        bench.train(bench.root / "nosuch", "--name", "trace")
    with pytest.raises(BadSetting, match="no training image is of camera"):
        bench.train(several, "--name", "trace", "--region", "cam-2=0,0,0.5,1")
    labels = bench.root / "labels.txt"
    labels.write_text("a\nb\n")
    for images, its_labels in ((bench.root / "nosuch", labels), (several, bench.root / "nosuch.txt")):
        with pytest.raises(SortlineError, match="nosuch"):
            bench.json(
                *("models", "import-classifier", "./classifier", "--name", "trace"),
                *("--labels", its_labels, "--calibration", images),
            )
    assert not (bench.store.root / "trace").exists()


def test_an_unwritable_store_or_cache_is_found_before_the_work(bench: Bench, several: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    unknown = ["--backbone", "nosuch:thing"]  # refused soon afterwards
    with pytest.raises(StoreUnavailable, match=r"file/models can't be read or written: Not a directory"):
        Bench(file, bench.backbone).json("train", several, *unknown)
    with pytest.raises(BadSetting, match=r"cache_dir = .*file/cache can't be used: Not a directory"):
        bench.train(several, *unknown, "--cache-dir", file / "cache")


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (["cam 1=0,0,1,1"], "can't be a camera's name"),
        (["0,0,1,1", "0.1,0,1,1"], "given twice"),
        (["left=0.5,0,0.4,1"], "left first"),
        (["cam-2=0,0,0.5,1"], "no training image is of camera 'cam-2'; they name no camera"),
    ],
)
def test_a_region_that_matches_no_image_is_refused(
    bench: Bench, several: Path, regions: list[str], message: str
) -> None:
    flags = [part for region in regions for part in ("--region", region)]
    with pytest.raises(BadSetting, match=message):
        bench.train(several, *flags)
