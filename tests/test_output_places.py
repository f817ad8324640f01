"""Whoever prints, logs or writes CSV does it through the helpers that make the text of others harmless.

Walks the syntax tree of every module that a plant runs. A new place that prints by itself fails here.
"""

from __future__ import annotations

import ast

import pytest

from tests.source_trees import calls, trees_by_path

PACKAGES = ("shared", "producer", "worker", "model_store", "sortline")
# What may only be called in these modules, and what is called elsewhere instead.
PLACES = {
    "print": (
        # The last one answers the process that started it.
        {"shared/messages.py", "shared/cli.py", "model_store/engines/isolated_load_program.py"},
        "shared.messages.say or note, shared.cli.print_json",
    ),
    "csv.writer": ({"shared/csv_files.py"}, "shared.csv_files.CsvWriter"),
    "csv.DictWriter": (set(), "shared.csv_files.CsvWriter"),
    "Console": (set(), "shared.tables.plain_console"),
    "rich.print": (set(), "shared.tables.plain_console"),
    "typer.echo": (set(), "shared.messages.say or note"),
    "typer.secho": (set(), "shared.messages.say or note"),
    "click.echo": (set(), "shared.messages.say or note"),
    "sys.stdout.write": (set(), "shared.messages.say"),
    # What native code has printed goes through `main`'s standard error, which escapes it.
    "sys.stderr.write": ({"model_store/runtime/native_output.py"}, "shared.messages.note"),
    "logging.Formatter": (set(), "shared.log_format"),
    "logging.basicConfig": ({"shared/log_format.py"}, "shared.log_format.configure_logging"),
}


def test_texts_are_printed_through_the_helpers() -> None:
    wrong = [
        f"{path}:{call.lineno}: {name}: use {PLACES[name][1]}"
        for path, tree in trees_by_path(PACKAGES)
        for name, call in calls(tree)
        if name in PLACES and path not in PLACES[name][0]
    ]
    assert not wrong, "\n".join(wrong)


def test_progress_bars_take_no_markup_from_texts() -> None:
    """A file may be named `[red]`, or `[/]`, which rich refuses as wrong markup."""
    columns = [
        ast.unparse(call) for _, tree in trees_by_path(PACKAGES) for name, call in calls(tree) if name == "TextColumn"
    ]
    assert columns
    assert all("markup=False" in column for column in columns), columns


@pytest.mark.parametrize("name", ["print", "csv.writer", "logging.basicConfig"])
def test_the_helpers_themselves_are_found(name: str) -> None:
    """Otherwise the first test would find nothing at all."""
    found = {path for path, tree in trees_by_path(PACKAGES) for called, _ in calls(tree) if called == name}
    assert found == PLACES[name][0]
