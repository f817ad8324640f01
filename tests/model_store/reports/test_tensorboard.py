"""TensorBoard's logs while a model trains: they can be read at any time, and never stop the training."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.reports.tensorboard import live_events
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.history import Epoch
from tests.model_store.reports.report_data import events

pytestmark = pytest.mark.training

FIRST_VALUES = {"loss": 0.5, "acc": 0.25, "val_loss": 0.75, "val_acc": 0.5, "learning_rate": 0.01}
FIRST = Epoch("head", 0, 2, "multi", FIRST_VALUES)
SECOND = Epoch("fine-tuning", 0, 1, "multi", {"loss": 0.25, "acc": 0.5, "val_loss": 0.5, "val_acc": 0.75})


def live_folder(lines: list[str]) -> Path:
    (line,) = [line for line in lines if line.startswith("to watch the training: tensorboard --logdir ")]
    return Path(line.split()[-1])


def test_epochs_are_written_while_the_training_runs(tmp_path: Path) -> None:
    lines: list[str] = []
    with live_events(tmp_path, "bottles", print_line=lines.append) as on_epoch:
        on_epoch(FIRST)
        on_epoch(SECOND)
        folder = live_folder(lines)
        train, validation = (events(folder / name) for name in ("train", "validation"))
        assert train["scalars:epoch_loss"] == [(0, 0.5), (1, 0.25)]
        assert [step for step, _ in train["scalars:epoch_learning_rate"]] == [0]
        assert validation["scalars:epoch_acc"] == [(0, 0.5), (1, 0.75)]
        assert b"label accuracy" in b"".join(path.read_bytes() for path in (folder / "train").iterdir())
    assert folder.parent == tmp_path / "logs"
    assert not folder.exists()


def test_logs_of_a_failed_training_are_kept_for_a_week(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt), live_events(tmp_path, "bottles", print_line=lines.append) as on_epoch:
        on_epoch(FIRST)
        raise KeyboardInterrupt
    folder = live_folder(lines)
    assert events(folder / "train")["scalars:epoch_loss"] == [(0, 0.5)]
    old = shutil.copytree(folder, tmp_path / "logs" / "old")
    for path in (old, *old.rglob("*")):
        os.utime(path, (1, 1))
    with live_events(tmp_path, "bottles", print_line=lines.append):
        assert folder.exists()
        assert not old.exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    """For the time of the test, this process can't write more than 200 bytes into a file, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_the_logs_and_not_the_training(tmp_path: Path, small_files: None) -> None:
    lines: list[str] = []
    with live_events(tmp_path, "bottles", print_line=lines.append) as on_epoch:
        for _ in range(5):
            on_epoch(FIRST)
    assert [line.split(":")[0] for line in lines] == ["to watch the training", "warning"]
    assert "no more logs for TensorBoard" in lines[1] and lines[1].endswith("The training goes on without.")
    assert "\n" not in lines[1]


def test_logs_that_cannot_be_closed_do_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tf = import_tensorflow()

    def full(_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    lines: list[str] = []
    with live_events(tmp_path, "bottles", print_line=lines.append) as on_epoch:
        on_epoch(FIRST)
        monkeypatch.setattr(type(tf.summary.create_file_writer(str(tmp_path / "other"))), "close", full)
    assert not live_folder(lines).exists()


def test_a_folder_that_cannot_be_made_stops_the_logs_and_not_the_training(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    lines: list[str] = []
    with live_events(tmp_path, "bottles", print_line=lines.append) as on_epoch:
        on_epoch(FIRST)
    assert len(lines) == 1 and "File exists" in lines[0]
