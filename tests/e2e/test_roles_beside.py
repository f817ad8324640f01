"""What a worker does beside sorting, with its role's rights: the archive, and a canary that the viewer looks at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shared import keys
from shared.server.roles import Role
from tests.e2e.kit import ready, sortline, stop, worker
from tests.e2e.roles_kit import EXPECTED, Plant, images
from tests.kit import wait_until

pytestmark = pytest.mark.e2e


def test_the_archive_and_a_canary_need_no_more_rights(plant: Plant, tiny_models: Path, tmp_path: Path) -> None:
    store, archive, log = tmp_path / "store", tmp_path / "archive", tmp_path / "worker.log"
    shutil.copytree(tiny_models, store)
    archive.mkdir()
    changes = {"model_store": str(store), "archive_dir": archive, "archive_share": 1.0}
    settings, viewer, producer = (
        plant.settings_of(role).model_copy(update=changes) for role in (Role.WORKER, Role.VIEWER, Role.PRODUCER)
    )
    published = sortline("models", "publish", str(store / "tiny" / "000001"), "--no-promote", settings=viewer)
    assert published.returncode == 0, published.stderr
    started = sortline("models", "canary", "tiny@2", "--share", "1", "--shadow", settings=viewer)
    assert started.returncode == 0, started.stderr
    with worker(settings, log=log) as process:
        wait_until(lambda: ready(log), "the worker is ready", log=log)
        wait_until(lambda: "canary tiny@2" in log.read_text(), "the worker has the canary", log=log)
        assert sortline("upload", *images(20), "--wait", settings=producer).returncode == 0
        wait_until(lambda: len(list(archive.rglob("*.jpg"))) == 20, "all images are archived", log=log)
        wait_until(lambda: any(plant.default.scan_iter(keys.shadow("*"))), "comparisons are written", log=log)
        wait_until(lambda: any(plant.default.scan_iter("sortline:canary:*")), "they are counted", log=log)
        shown = sortline("models", "canary", "tiny", settings=viewer)
        assert shown.returncode == 0 and "can't be read" not in shown.stderr, shown.stderr
        assert stop(process) == 0
    assert plant.denials() <= EXPECTED
