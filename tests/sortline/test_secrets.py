"""No command shows a secret: not of any form of `redis_url`, nor of a model store or a backbone at a URL."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import sortline.cli
from tests.kit import BOTTLES
from tests.shared.secret_urls import SECRET, SECRET_URLS

Run = Callable[..., tuple[int, str]]

COMMANDS = (
    ("config",),
    ("config", "--json"),
    ("results",),
    ("upload", str(BOTTLES / "bottles_000.jpg"), "--timeout", "0.1"),
)
STORES = (
    "s3://key:hunter2@bucket/m",
    "s3://key:x/hunter2@bucket/m",
    "s3://bucket/m?token=hunter2",
    "ftp://u:hunter2@127.0.0.1:1/m",
    "http://u:hunter2@127.0.0.1:1/m",
    "sftp://u:hunter2@127.0.0.1:1/m",
    "nonsense://u:hunter2@host/m",
    "https://127.0.0.1:1/m?X-Amz-Algorithm=A&X-Amz-Credential=hunter2&X-Amz-Signature=hunter2",
)
BACKBONES = (
    "http://u:hunter2@127.0.0.1:1/x/feature_vector/4",
    "http://u:hun/hunter2@127.0.0.1:1/x/feature_vector/4",
    "http://hunter2@127.0.0.1:1/x/feature_vector/4",
    "http://127.0.0.1:1/x.tar.gz?X-Amz-Signature=hunter2",
    "http://u:hunter2@127.0.0.1:1/x#size=huge",
    "http://u:hunter2@127.0.0.1:1/x#nonsense=hunter2",
    "ftp://u:hunter2@127.0.0.1/x.tar.gz",
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command as a user does, in this process, at the log level `debug`. Returns its code and all its output."""
    for name in [name for name in os.environ if name.upper().startswith("SORTLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SORTLINE_MODEL_STORE", str(tmp_path / "models"))
    monkeypatch.setenv("SORTLINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SORTLINE_LOG_LEVEL", "debug")
    monkeypatch.setenv("COLUMNS", "80")
    for module in (sys, threading):
        monkeypatch.setattr(module, "excepthook", module.excepthook)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sortline", *arguments])
        capfd.readouterr()
        try:
            sortline.cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, errors = capfd.readouterr()
        return code, out + errors

    return run


@pytest.mark.parametrize("url", SECRET_URLS)
def test_no_form_of_the_servers_url_shows(url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, origin in (("flag", ("--redis-url", url)), ("variable", ())):
        if name == "variable":
            monkeypatch.setenv("SORTLINE_REDIS_URL", url)
        for command in COMMANDS if name == "variable" else COMMANDS[2:3]:
            code, shown = run(*command, *origin)
            assert SECRET not in shown, (name, command, shown)
            assert (code == 0) == (command[0] == "config"), (command, shown)


@pytest.mark.parametrize("url", SECRET_URLS[:12:3])
@pytest.mark.parametrize(
    "text",
    [
        'redis_url = "{}"\nnosuch = 1',
        'redis_url = "{}\nmodel = 1',
        'redis_url = ["{}"]',
        'redis_url = {{password = "{}"}}',
    ],
    ids=["unknown name", "not TOML", "list", "table"],
)
def test_nor_in_the_errors_of_the_settings_file(url: str, text: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "sortline.toml").write_text(text.format(url))
    code, shown = run("config")
    assert code == 2
    assert SECRET not in shown


@pytest.mark.parametrize(
    "command", [("models", "list"), ("models", "show", "bottles"), ("config",), ("config", "--json")]
)
@pytest.mark.parametrize("store", STORES)
def test_nor_of_a_model_store(store: str, command: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_MODEL_STORE", store)
    code, shown = run(*command)
    assert SECRET not in shown
    assert (code == 0) == (command[0] == "config"), shown


@pytest.mark.parametrize("handle", BACKBONES)
def test_nor_of_a_backbone(handle: str, run: Run, tmp_path: Path) -> None:
    code, shown = run("models", "fetch-backbone", handle)
    assert code in (1, 2)
    assert SECRET not in shown
    assert [path for path in tmp_path.rglob("*") if SECRET in str(path)] == []


def test_config_shows_where_the_password_comes_from(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    monkeypatch.setenv("SORTLINE_REDIS_URL", "redis://worker@plant:6379/0")
    monkeypatch.setenv("SORTLINE_REDIS_PASSWORD_FILE", "secret")
    monkeypatch.setenv("COLUMNS", "220")
    code, shown = run("config")
    assert code == 0
    assert SECRET not in shown
    lines = {line.split()[0]: line.split()[1:4] for line in shown.splitlines()}
    assert lines["redis_url"] == ["redis://worker:***@plant:6379/0", "environment", "SORTLINE_REDIS_URL"]
    assert lines["redis_password_file"] == ["secret", "environment", "SORTLINE_REDIS_PASSWORD_FILE"]
    monkeypatch.delenv("SORTLINE_REDIS_PASSWORD_FILE")
    monkeypatch.setenv("SORTLINE_REDIS_PASSWORD", "hunter2")
    code, shown = run("config")
    assert SECRET not in shown
    lines = {line.split()[0]: line.split()[1:4] for line in shown.splitlines()}
    assert lines["redis_password"] == ["***", "environment", "SORTLINE_REDIS_PASSWORD"]
