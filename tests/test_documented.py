"""Every command, setting and metric is documented, and nothing is documented that isn't there."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

import sortline
from producer.metrics import SUBMITTED
from shared.settings import Settings
from worker.metrics import Metrics, QueueGauges

ROOT = Path(__file__).parent.parent


def _commands() -> dict[str, typer.main.TyperCommand]:
    return dict(typer.main.get_command(sortline.app).commands)  # type: ignore[attr-defined]


def test_readme_lists_exactly_the_commands() -> None:
    listed = re.findall(r"^\| `sortline (\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(_commands())


def test_readme_lists_exactly_the_commands_of_models() -> None:
    row = re.search(r"^\| `sortline models` \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert row is not None
    inner: dict[str, object] = _commands()["models"].commands  # type: ignore[attr-defined]
    assert sorted(re.findall(r"`([\w-]+)`", row[1])) == sorted(inner)


def test_every_command_has_help_with_an_example() -> None:
    def leaves(commands: dict[str, object], path: str = "sortline") -> dict[str, str]:
        found = {}
        for name, command in commands.items():
            inner = getattr(command, "commands", None)
            found |= leaves(inner, f"{path} {name}") if inner else {f"{path} {name}": command.help or ""}
        return found

    for path, text in leaves(_commands()).items():
        assert path in text.partition("Example: ")[2], f"{path} --help has no example"


def test_the_settings_page_has_every_setting_with_its_default_and_meaning() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    rows = [f"| `{name}` | `{field.default}` | {field.description} |" for name, field in Settings.model_fields.items()]
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows


def test_the_metrics_page_has_every_metric() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(sortline_\w+)", page, re.MULTILINE))
    exposed = {SUBMITTED._name + "_total", "sortline_redis_up", "sortline_queue_depth", "sortline_queue_oldest_seconds"}
    for family in Metrics().registry.collect():
        exposed.add(family.name + ("_total" if family.type == "counter" else ""))
    assert documented == exposed


def test_the_queue_gauges_are_those_that_the_page_names(client: object) -> None:
    gauges = QueueGauges(client, queues=["live"])  # type: ignore[arg-type]
    assert {family.name for family in gauges.collect()} == {
        "sortline_redis_up",
        "sortline_queue_depth",
        "sortline_queue_oldest_seconds",
    }
