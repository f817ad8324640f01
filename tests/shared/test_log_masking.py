"""Log lines, messages and tracebacks: no secret of a URL gets through, whoever wrote it."""

from __future__ import annotations

import json
import logging
import sys
import threading

import pytest

from shared.cli import setup_logging
from shared.log_format import configure_logging
from shared.messages import mask_tracebacks
from shared.settings import load_settings

URL = "redis://:hunter2@host:6379/0"
log = logging.getLogger("some.library")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_and_its_traceback_are_masked(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(log_format=log_format, level="debug")
    try:
        raise ValueError(f"can't parse {URL!r}\nnor https://host/x?token=hunter2")
    except ValueError:
        log.exception("connecting to %s", URL, extra={"server": URL, "count": 3})
    shown = capsys.readouterr().err
    assert "hunter2" not in shown
    assert "redis://:***@host:6379/0" in shown
    assert "https://host/x?token=***" in shown
    if log_format == "json":
        line = json.loads(shown)
        assert (line["server"], line["count"]) == ("redis://:***@host:6379/0", 3)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_pieces_of_the_settings_urls_are_masked(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings(
        redis_url="redis://worker:hunter2%2Fx@host", model_store="s3://key:hunter3@bucket", log_format=log_format
    )
    setup_logging(settings)
    log.warning("HTTPConnectionPool(host='key'): hunter2/x, port: 'hunter3@bucket'")
    shown = capsys.readouterr().err
    assert "hunter" not in shown
    assert "HTTPConnectionPool(host='key'): ***, port: '***@bucket'" in shown


def test_a_password_that_a_log_can_not_hide_is_warned_of_at_start(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(load_settings(redis_url="redis://worker:worker@host"))
    log.warning("the worker is ready")
    shown = capsys.readouterr().err
    assert shown.count("the password of redis_url is short, the user's name or a common word") == 1
    assert "the worker is ready" in shown
    setup_logging(load_settings(redis_url="redis://worker:long-random@host"))
    assert capsys.readouterr().err == ""


def test_libraries_that_log_whole_requests_stay_silent(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(log_format="text", level="debug")
    for name in ("botocore.auth", "s3fs", "urllib3.connectionpool", "fsspec"):
        logging.getLogger(name).debug("Authorization: hunter2")
    log.debug("this is shown")
    shown = capsys.readouterr().err
    assert "hunter2" not in shown
    assert "this is shown" in shown


def test_tracebacks_of_unexpected_errors_are_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    mask_tracebacks()
    error = RuntimeError(f"no answer from {URL}")
    sys.excepthook(RuntimeError, error, None)

    def fail() -> None:
        raise error

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    shown = capsys.readouterr().err
    assert shown.count("RuntimeError: no answer from redis://:***@host:6379/0") == 2
    assert "hunter2" not in shown
