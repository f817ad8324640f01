"""The archive in the pipeline when single images can't be written, or none: what that costs, and whom."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from shared.settings import Settings
from tests.kit import ManualClock
from tests.worker import kit
from tests.worker.archive.kit import AT, archived, counts, images_on, sort, started, troubles
from tests.worker.kit import frame, picture

HOUR_S = 3600.0


@pytest.fixture
def bad_line(root: Path) -> str:
    """A line whose folder can't be made for results at AT: a file is in its place."""
    day = root / time.strftime("%Y-%m-%d", time.gmtime(AT))
    day.mkdir()
    (day / "bad").write_bytes(b"")
    return "bad"


def test_a_line_whose_folder_can_not_be_written_costs_the_others_nothing(
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: ManualClock,
    bad_line: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No other line waits until the disk is tried again. Here that would be in an hour."""
    run = started(archiving, quiet, clock=lambda: AT, retry_wait_s=HOUR_S)
    sent: list[str] = []
    for number in range(1, 4):
        kit.submit(archiving, frame(line=bad_line))
        kit.wait_until(lambda number=number: counts(run._components).get("failed") == number, "it is counted")
        sent += sort(run, archiving, client, picture(number))
        kit.wait_until(lambda number=number: counts(run._components).get("written") == number, "the other is written")
    (day,) = root.glob("2*")
    said = f"archive_dir {root}: {day.name}/{bad_line} is not a folder: move it away, or name another folder. "
    assert [text[: len(said)] for text in troubles(caplog)] == [said]
    run.drain()
    kit.finish(run)
    (day / bad_line).unlink()
    assert set(archived(root)) == set(sent)


def test_a_worker_that_ends_writes_all_images_but_the_bad_one(
    archiving: Settings, root: Path, quiet: ManualClock, bad_line: str
) -> None:
    frames = [frame(picture(tone)) for tone in range(40)]
    sent = kit.submit(archiving, *frames[:20], frame(line=bad_line), *frames[20:])
    run = started(archiving, quiet, clock=lambda: AT, retry_wait_s=HOUR_S, burst=True)
    kit.finish(run)
    assert counts(run._components) == {"written": 40, "failed": 1}
    next(root.glob(f"2*/{bad_line}")).unlink()
    assert set(archived(root)) == set(sent) - {sent[20]}


def test_the_end_does_not_wait_for_a_folder_that_can_not_be_written(
    archiving: Settings, client: redis.Redis, root: Path, quiet: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    root.rmdir()
    run = started(archiving, quiet, retry_wait_s=HOUR_S)
    sort(run, archiving, client, *[picture(tone) for tone in range(5)])
    kit.wait_until(lambda: troubles(caplog), "the trouble is logged")
    run.drain()
    kit.finish(run)  # before the pipeline is joined, which would end the archive in any case
    assert images_on(client) == {}
    run.join(0.0)
    assert counts(run._components) == {"dropped": 5}
    assert troubles(caplog)[1:] == [f"archive_dir {root}: 5 images were not written before the worker ended"]
