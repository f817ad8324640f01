"""The parent finds the log format in the same places as the settings do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.settings import load_settings
from worker.parent.log import log_format


@pytest.mark.parametrize(
    ("variables", "file", "name"),
    [
        ({}, "", "sortline.toml"),
        ({}, 'log_format = "json"', "sortline.toml"),
        ({"SORTLINE_LOG_FORMAT": "text"}, 'log_format = "json"', "sortline.toml"),
        ({"sortline_log_format": "json"}, "", "sortline.toml"),
        ({"SORTLINE_CONFIG": "other.toml"}, 'log_format = "json"', "other.toml"),
    ],
)
def test_the_log_format_is_that_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], file: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SORTLINE_LOG_FORMAT", raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / name).write_text(file)
    assert log_format(os.environ) == load_settings().log_format


def test_the_log_format_is_text_if_the_settings_cannot_be_read(tmp_path: Path) -> None:
    """Someone may have changed the file since the worker read it."""
    (tmp_path / "broken.toml").write_text("log_format =")
    assert log_format({"SORTLINE_CONFIG": str(tmp_path / "broken.toml")}) == "text"
    assert log_format({"SORTLINE_CONFIG": str(tmp_path / "none.toml")}) == "text"


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
def test_the_log_format_is_text_if_the_file_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    assert log_format({"SORTLINE_CONFIG": str(tmp_path / "pipe.toml")}) == "text"


def test_a_file_from_a_windows_editor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert log_format({"SORTLINE_CONFIG": "absent.toml"}) == "text"
    Path("sortline.toml").write_bytes(b"\xef\xbb\xbflog_format = 'json'\r\n")
    assert log_format({}) == "json"
