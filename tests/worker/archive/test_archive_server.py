"""The archive in the pipeline and the server's memory: images wait there only while it has room, and none is left."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.kit import ManualClock
from tests.worker import kit
from tests.worker.archive.kit import counts, images_on, sort, started, troubles, writer_of
from tests.worker.kit import picture
from worker.archive.backlog import SERVER_CHECK_S
from worker.archive.trouble import QUIET_S
from worker.pipeline import Pipeline

# A pipe can't hold it. So while the writer hangs, the worker reads one such image, and the others stay on the server.
LARGE = picture() + bytes(1_500_000)


@pytest.fixture
def hanging(
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: ManualClock,
    pause: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> Pipeline:
    """A pipeline whose writer has written one image and then hangs, while another waits for it, and three more on
    the server."""
    caplog.set_level(logging.INFO)
    run = started(archiving, quiet)
    sort(run, archiving, client, picture(1))
    kit.wait_until(lambda: counts(run._components) == {"written": 1}, "the first one is written")
    pause(writer_of(root))
    sort(run, archiving, client, *[LARGE] * 4)
    kit.wait_until(lambda: len(images_on(client)) == 3, "one is read")
    return run


@pytest.fixture
def nearly_full(client: redis.Redis) -> Iterator[Callable[[], None]]:
    """A function that leaves the server's memory nearly used up, also without the archive's images."""

    def fill() -> None:
        for number in range(80):
            client.set(f"ballast-{number}", bytes(1_000_000))
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.97))

    yield fill
    client.config_set("maxmemory", 0)


def recover(
    run: Pipeline, settings: Settings, client: redis.Redis, quiet: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Sort images until the log says that the archive works again. Nothing waits when the archive's clock moves: it
    would take the jump for a disk that hangs."""

    def is_all_counted() -> bool:
        return sum(counts(run._components).values()) == len(kit.stream(client))

    def works_again() -> bool:
        kit.wait_until(is_all_counted, "all are counted")
        quiet.now += QUIET_S
        sort(run, settings, client, picture(3))
        kit.wait_until(is_all_counted, "it is written")
        return len(troubles(caplog)) == 2

    kit.wait_until(works_again, "it works again")


def test_images_that_wait_are_given_up_when_the_server_is_nearly_full(
    hanging: Pipeline,
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: ManualClock,
    nearly_full: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise the cameras' next images would be refused because of a disk that hangs."""
    nearly_full()
    quiet.now += SERVER_CHECK_S
    kit.wait_until(lambda: counts(hanging._components) == {"written": 1, "dropped": 3}, "they are given up")
    assert images_on(client) == {}
    for dropped in (5, 7):
        quiet.now += SERVER_CHECK_S
        sort(hanging, archiving, client, picture(1), picture(2))
        assert images_on(client) == {}, "nothing waits while this lasts"
        expected = {"written": 1, "dropped": dropped}
        kit.wait_until(lambda expected=expected: counts(hanging._components) == expected, "they are counted")
    (said,) = troubles(caplog)
    assert said.startswith(f"archive_dir {root}: more than 90% of the server's memory is in use")

    client.config_set("maxmemory", 0)
    quiet.now += SERVER_CHECK_S

    def waits_again() -> bool:
        sort(hanging, archiving, client, picture(3))
        return bool(images_on(client))

    kit.wait_until(waits_again, "images wait again")
    dropped = counts(hanging._components)["dropped"]
    os.kill(writer_of(root), signal.SIGCONT)
    recover(hanging, archiving, client, quiet, caplog)
    written = len(kit.stream(client)) - dropped
    assert counts(hanging._components) == {"written": written, "dropped": dropped}
    assert troubles(caplog)[1:] == [f"archive_dir {root} works again; {dropped} images were not archived"]
    hanging.drain()
    kit.finish(hanging)


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_worker_that_ends_leaves_no_image_on_the_server(
    hanging: Pipeline, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of several starts while a disk hangs would add as much to the server as one worker may keep there."""
    hanging.drain()
    kit.wait_until(hanging.ended.is_set, "the pipeline ends")
    hanging.join(0.0)
    assert hanging.supervisor.join(kit.PATIENCE_S)
    assert images_on(client) == {}
    assert counts(hanging._components) == {"written": 1, "dropped": 4}
    assert "4 images were not written before the worker ended; process " in troubles(caplog)[-1]


def test_images_that_have_waited_too_long_count_as_lost(
    hanging: Pipeline,
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client.delete(*images_on(client))  # as if they had expired
    os.kill(writer_of(root), signal.SIGCONT)
    kit.wait_until(lambda: counts(hanging._components) == {"written": 2, "no_image": 3}, "they are counted")
    (said,) = troubles(caplog)
    assert said.startswith(
        f"archive_dir {root}: images waited too long: the server deletes them after {keys.KEPT_IMAGE_S} s"
    )
    recover(hanging, archiving, client, quiet, caplog)
    assert troubles(caplog)[1] == f"archive_dir {root} works again; 3 images were not archived"
    hanging.drain()
    kit.finish(hanging)
