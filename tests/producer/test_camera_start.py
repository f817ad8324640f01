"""What `sortline camera` logs at its start: source, rate, queue, server, deadline and metrics."""

from __future__ import annotations

import logging
import re
import urllib.request
from pathlib import Path

import pytest

from producer.camera_options import CameraOptions, TooOld, WhenFull
from producer.camera_start import log_start
from shared.settings import Settings
from tests.e2e.kit import running, sortline
from tests.kit import wait_until
from tests.producer.camera_kit import Frames, options

SERVER = "redis://plant:secret@sorter:6379/0"


def start_lines(
    caplog: pytest.LogCaptureFixture, camera: CameraOptions, *, metrics_url: str | None = None
) -> list[str]:
    caplog.set_level(logging.INFO, "producer.camera")
    log_start(camera, Frames(), redis_url=SERVER, metrics_url=metrics_url)
    return caplog.messages


def test_two_lines_say_what_is_sent_where_to_and_how_fast(caplog: pytest.LogCaptureFixture) -> None:
    camera = options(count=1200, rate_hz=12.5, deadline_ms=120.0, max_age_s=5.0, too_old=TooOld.EXPIRE)
    assert start_lines(caplog, camera, metrics_url="http://0.0.0.0:9100/metrics") == [
        "line line-1: camera camera-1: good frames, captured now",
        "line line-1: camera camera-1: 1,200 frames, 12.5 per second, to queue live at redis://plant:***@sorter:6379/0"
        "; deadline 120 ms after capture; frames older than 5 s are answered `expired`; "
        "metrics on http://0.0.0.0:9100/metrics",
    ]


def test_what_is_not_set_is_said_too(caplog: pytest.LogCaptureFixture) -> None:
    assert start_lines(caplog, options(count=None, queue="bulk", max_age_s=5.0))[1] == (
        "line line-1: camera camera-1: frames, as fast as possible, to queue bulk at redis://plant:***@sorter:6379/0; "
        "no deadline; frames older than 5 s are not sent; no metrics (--metrics-port serves them)"
    )


def test_where_the_deadline_comes_from_and_whether_it_waits_is_said(caplog: pytest.LogCaptureFixture) -> None:
    source = "0.45 m at 3 m/s (--belt-m-s, --ejector-m)"
    camera = options(deadline_ms=150.0, deadline_source=source, when_full=WhenFull.BLOCK)
    assert (
        "; deadline 150 ms after capture: 0.45 m at 3 m/s (--belt-m-s, --ejector-m); "
        "waits while the queue is full (--when-full block); "
    ) in start_lines(caplog, camera)[1]


def test_the_command_names_the_address_of_its_metrics(settings: Settings, tmp_path: Path) -> None:
    arguments = ("camera", "--line", "line-1", "--source", "simulated", "--size", "64x48", "--rate", "5")
    log = tmp_path / "log"
    with running("sortline", *arguments, "--deadline-ms", "300", "--metrics-port", "0", settings=settings, log=log):
        wait_until(lambda: "metrics on " in log.read_text(), "it has started")
        url = re.search(r"metrics on (\S+)", log.read_text())
        assert url is not None
        with urllib.request.urlopen(url[1].replace("0.0.0.0", "127.0.0.1")) as answer:  # noqa: S104  # replaces it
            assert b"sortline_submitted_total" in answer.read()
    assert "frames, 5 per second, to queue live at redis://" in log.read_text()


def test_a_name_that_cannot_be_used_is_refused_before_the_camera_says_that_it_sends(settings: Settings) -> None:
    done = sortline("camera", "--line", "a b", "--source", "simulated", settings=settings)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
