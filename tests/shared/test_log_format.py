"""Log lines: one for each event, whatever the event quotes, and never long."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from shared.log_format import configure_logging

HOSTILE = "\x1b]0;owned\x07\r\n2026-01-01T00:00:00Z ERROR   sortline.worker: forged\x9b2J\u202e\udce9"
LONG = "x" * 5_000_000

Written = Callable[[], str]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Written:
    return lambda: capsys.readouterr().err


def log_with_traceback(error: Exception) -> None:
    try:
        raise error
    except Exception:
        logging.getLogger("test").exception("it failed")


def test_an_event_is_one_line_of_text(written: Written) -> None:
    configure_logging(log_format="text", level="info")
    logging.getLogger("test").error("job %s is refused", HOSTILE)
    text = written()
    assert text.count("\n") == 1
    assert r"\x1b]0;owned\x07\r\n2026" in text
    assert text.rstrip("\n").isprintable()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_long_event_is_cut_and_says_so(written: Written, log_format: str) -> None:
    configure_logging(log_format=log_format, level="info")
    logging.getLogger("test").error("callbacks (%r); enqueue it with LineProducer.", LONG)
    text = written()
    assert len(text) < 5_300
    assert "5,000,0" in text
    assert "characters in all" in text
    assert "enqueue it with LineProducer." in text


def test_a_traceback_is_indented_and_bounded(written: Written) -> None:
    configure_logging(log_format="text", level="info")
    log_with_traceback(ValueError(f"{HOSTILE}\n{LONG}"))
    first, *others = written().splitlines()
    assert first.endswith("it failed")
    assert all(line.startswith("  ") and line.isprintable() and len(line) < 1_100 for line in others)
    log_with_traceback(ValueError("\n".join(map(str, range(10_000)))))
    lines = written().splitlines()
    assert len(lines) == 102
    assert lines[11] == "    [... cut: 10,003 lines in all ...]"
    assert lines[-1] == "  9999"


def test_json_is_valid_and_gives_back_what_was_logged(written: Written) -> None:
    configure_logging(log_format="json", level="info")
    logging.getLogger("test").error("job %s", HOSTILE, extra={"job_id": HOSTILE, "wait_s": float("nan")})
    text = written()
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()
    event = json.loads(text)
    expected = HOSTILE.replace("\udce9", r"\xe9")
    assert (event["message"], event["job_id"], event["wait_s"]) == (f"job {expected}", expected, None)


@pytest.mark.parametrize("extra", [{"a": LONG}, {"a": [LONG], "b": LONG, "n": 7}, {LONG: {"b": LONG}, "n": 7}])
def test_long_fields_are_cut_and_the_others_stay(written: Written, extra: dict[str, Any]) -> None:
    configure_logging(log_format="json", level="info")
    logging.getLogger("test").error("a message", extra=extra)
    text = written()
    assert len(text) < 20_000
    event = json.loads(text)
    assert event["message"] == "a message"
    assert event.get("n") == extra.get("n")
    assert "characters in all" in text


def test_a_traceback_in_json_is_bounded(written: Written) -> None:
    configure_logging(log_format="json", level="info")
    log_with_traceback(ValueError("\n".join([HOSTILE, LONG, *map(str, range(10_000))])))
    text = written()
    assert len(text) < 20_000
    assert json.loads(text)["exception"].endswith("9999")
