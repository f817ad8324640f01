"""What the logs look like: one line per event, whatever it quotes."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from shared.cli import setup_logging
from shared.settings import Settings

FORGED = "x\n2026-01-01T00:00:00Z ERROR   sortline: forged\r\x1b[31m\x9b\u2028"
log = logging.getLogger("sortline.test")


def lines(settings: Settings, capsys: pytest.CaptureFixture[str], log_format: str) -> list[str]:
    setup_logging(settings.model_copy(update={"log_format": log_format}))
    log.error("job %s is odd", FORGED)
    try:
        raise ValueError(FORGED)
    except ValueError:
        log.exception("and so is this")
    return capsys.readouterr().err.splitlines()


def test_nothing_that_a_message_quotes_begins_a_line_or_steers_the_terminal(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, and_so, *traceback = lines(settings, capsys, "text")
    assert odd.endswith(
        r"sortline.test: job x\n2026-01-01T00:00:00Z ERROR   sortline: forged\r\x1b[31m\x9b\u2028 is odd"
    )
    assert and_so.endswith("ERROR   sortline.test: and so is this")
    assert traceback[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in traceback)
    assert not any(character in "".join(traceback) for character in "\r\x1b\x9b")


def test_json_has_an_object_for_each_event(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(settings.model_copy(update={"log_format": "json"}))
    log.error("job %s is odd", FORGED)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert json.loads(err)["message"] == f"job {FORGED} is odd"


def test_lines_go_to_the_current_standard_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar replaces it, to print lines above the bar; otherwise they would run into the bar."""
    setup_logging(settings)
    progress = io.StringIO()
    monkeypatch.setattr(sys, "stderr", progress)
    log.warning("above the bar")
    assert progress.getvalue().endswith("above the bar\n")
