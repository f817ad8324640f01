"""`sortline config`."""

from __future__ import annotations

import typer

from shared.cli import JsonFlag, print_json


def add_to(app: typer.Typer) -> None:
    """Add this package's commands."""
    app.command("config")(config)


def config(as_json: JsonFlag = False) -> None:
    """Print every setting with its effective value and where the value comes from; secrets are masked.

    A flag overrides the environment (SORTLINE_...), which overrides sortline.toml, which overrides the default.

    Example: SORTLINE_MAX_BATCH=32 sortline config
    """
    import sys

    from shared.settings import Settings, load_settings, masked, origin, unknown_variables

    settings = load_settings()
    rows = {
        name: {
            "value": masked(value),
            "origin": origin(name, {}),
            "description": Settings.model_fields[name].description,
        }
        for name, value in settings.model_dump(mode="json").items()
    }
    for variable in unknown_variables():
        print(f"sortline: {variable} is set but is not a setting: it has no effect.", file=sys.stderr)
    if as_json:
        print_json(rows)
    else:
        _print_table(rows)


def _print_table(rows: dict[str, dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 200  # in a pipe each setting should be on one line; rich would wrap at 80 columns
    table = Table("setting", "value", "origin", "meaning", box=None, pad_edge=False)
    for name, row in rows.items():
        table.add_row(name, str(row["value"]), str(row["origin"]), str(row["description"]))
    console.print(table)
