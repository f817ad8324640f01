"""`sortline config`, as a command of an application."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from shared import commands
from shared.errors import BadSetting
from shared.settings import Settings


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SORTLINE_{name.upper()}", raising=False)
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.callback()(lambda: None)  # with one command only, typer would drop its name
    commands.add_to(app)
    return app


def test_json_shows_value_origin_and_masks_secrets(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sortline.toml").write_text("max_batch = 3\n")
    monkeypatch.setenv("SORTLINE_REDIS_URL", "redis://:hunter2@plant:6379/0")
    result = CliRunner().invoke(app, ["config", "--json"])
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert list(shown) == list(Settings.model_fields)
    assert (shown["max_batch"]["value"], shown["max_batch"]["origin"]) == (3, "sortline.toml")
    assert shown["redis_url"]["value"] == "redis://:***@plant:6379/0"
    assert shown["redis_url"]["origin"] == "environment SORTLINE_REDIS_URL"
    assert (shown["engine"]["value"], shown["engine"]["origin"]) == ("auto", "default")
    assert "hunter2" not in result.output


def test_table_has_one_line_a_setting(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_REDIS_URL", "redis://:hunter2@plant:6379/0")
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["config"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["setting", *Settings.model_fields]
    (url,) = [line for line in lines if line.startswith("redis_url")]
    assert url.split()[1:4] == ["redis://:***@plant:6379/0", "environment", "SORTLINE_REDIS_URL"]


def test_a_bad_setting_escapes_to_the_command_line(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_MAX_BATCH", "many")
    result = CliRunner().invoke(app, ["config"])
    assert isinstance(result.exception, BadSetting)


def test_on_a_narrow_terminal_no_value_is_cut_off(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("SORTLINE_REDIS_URL", "redis://queue.plant.example:6379/0")
    commands.config()
    lines = capsys.readouterr().out.splitlines()
    value = lines.index("redis_url            redis://queue.plant.example:6379/0  (environment SORTLINE_REDIS_URL)")
    assert lines[value + 1] == "    URL of the Redis or Valkey server that holds the queues"
    assert all(len(line) <= 80 for line in lines if line.startswith("    "))
