"""Progress as lines of text, for output that is no terminal."""

from __future__ import annotations

import pytest

from model_store.runtime.progress import ProgressSteps, show_progress
from producer import display
from producer.upload import UploadProgress
from shared.progress import ProgressLines, show_status
from tests.kit import ASCII_LOCALE, drawn_on_terminal


def test_lines_come_at_once_and_then_every_few_seconds() -> None:
    told: list[str] = []
    now = 0.0
    lines = ProgressLines(told.append, clock=lambda: now)
    for now in (0.0, 1.0, 4.9, 5.0, 5.1, 11.0):
        lines.show(f"at {now:g}")
    assert told == ["at 0", "at 5", "at 11"]


def test_the_last_figures_are_told_at_the_end() -> None:
    told: list[str] = []
    lines = ProgressLines(told.append, clock=lambda: 0.0)
    lines.end()
    for number in (1, 2, 3):
        lines.show(f"sent {number} of 3")
    assert told == ["sent 1 of 3"]
    lines.end()
    lines.end()
    assert told == ["sent 1 of 3", "sent 3 of 3"]


def test_each_phase_has_a_line_at_once() -> None:
    told: list[str] = []
    now = 0.0
    lines = ProgressLines(told.append, clock=lambda: now)
    lines.show("idle: 98 of 100 workers are registered")
    now = 1.0
    for text in ("idle: 99 of 100 workers are registered", "idle: 100 workers, the server's load"):
        lines.show(text)
    now = 5.9
    lines.show("idle: 99 of 100 workers are registered")  # too soon after the server's load
    assert told == ["idle: 98 of 100 workers are registered", "idle: 100 workers, the server's load"]


def test_a_status_is_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_status("benchmarks") as on_progress:
        on_progress("engine: [round] 1 of 3")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "engine: [round] 1 of 3\n")


@pytest.mark.parametrize(("locale", "is_ascii"), [(ASCII_LOCALE, True), ({"PYTHONUTF8": "1"}, False)])
def test_a_status_on_a_terminal_without_unicode_is_ascii(locale: dict[str, str], is_ascii: bool) -> None:
    program = "from shared.progress import show_status\nwith show_status('benchmarks') as tell: tell('round 1 of 3')"
    drawn = drawn_on_terminal(program, environment=locale)
    assert b"round 1 of 3" in drawn and b"\\u" not in drawn
    assert drawn.isascii() is is_ascii


def test_each_step_of_a_training_is_a_line_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress() as steps:
        with steps.step("Reading the images", total=10):
            pass
        with steps.step("Opening the backbone"):
            pass
    assert capsys.readouterr().err == "Reading the images\nOpening the backbone\n"


def test_a_long_step_tells_its_share() -> None:
    told: list[str] = []
    times_s = [0.0]
    steps = ProgressSteps(print_line=told.append, clock=lambda: times_s[-1])
    with steps.step("Computing features", total=8) as on_progress:
        for time_s in (1.0, 5.0, 10.0):
            times_s.append(time_s)
            on_progress(2)
    assert told == ["Computing features", "Computing features: 50%", "Computing features: 75%"]
    assert steps.seconds == {"Computing features": 10.0}


def test_an_upload_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with display.upload_bar(2_000, wait=True) as on_progress:
        on_progress(UploadProgress(files=2_000, sent=1_000, answered=10))
        on_progress(UploadProgress(files=2_000, sent=1_200, answered=10, waiting="queue holds 500 MB"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "sent 1,000 of 2,000 files, 10 results",
        "sent 1,200 of 2,000 files (waiting: queue holds 500 MB), 10 results",
    ]
