"""`sortline config`."""

from __future__ import annotations

import textwrap

import typer

from shared.cli import JsonFlag, print_json
from shared.messages import say

# Columns for the blanks between the columns, and for a part of the meaning that is long enough to read.
_MEANING_WIDTH = 46
_INDENT = " " * 4


def add_to(app: typer.Typer) -> None:
    """Add this package's commands."""
    app.command("config")(config)


def config(as_json: JsonFlag = False) -> None:
    """Print every setting with its effective value and where the value comes from; secrets are masked.

    A flag overrides the environment (SORTLINE_...), which overrides sortline.toml, which overrides the default.

    Example: SORTLINE_MAX_BATCH=32 sortline config
    """
    from shared.masking import masked_setting
    from shared.setting_problems import origin
    from shared.settings import Settings, load_settings

    settings = load_settings()
    rows = {
        name: {
            "value": masked_setting(name, value),
            "origin": origin(name, {}),
            "description": Settings.model_fields[name].description,
        }
        for name, value in settings.model_dump(mode="json").items()
    }
    if as_json:
        print_json(rows)
    else:
        _print_table(rows)


def _print_table(rows: dict[str, dict[str, object]]) -> None:
    """Print a line for each setting. If there is no room for its meaning, that goes on lines of its own."""
    import shutil

    width = shutil.get_terminal_size().columns
    names = max(map(len, rows))
    values, origins = (max(len(str(row[key])) for row in rows.values()) for key in ("value", "origin"))
    if names + values + origins + _MEANING_WIDTH > width:
        for name, row in rows.items():
            say(f"{name:<{names}}  {row['value']}  ({row['origin']})")
            for line in textwrap.wrap(str(row["description"]), width - len(_INDENT)):
                say(f"{_INDENT}{line}")
        return
    shown: dict[str, dict[str, object]] = {
        "setting": {"value": "value", "origin": "origin", "description": "meaning"},
        **rows,
    }
    for name, row in shown.items():
        say(f"{name:<{names}}  {row['value']!s:<{values}}  {row['origin']!s:<{origins}}  {row['description']}")
