"""Runs `sortline models …` on a store, as a user does."""

from __future__ import annotations

import json
from typing import Any

import typer
from typer.testing import CliRunner, Result

from model_store.commands import add_to
from model_store.registry.store import ModelStore


def run(store: ModelStore, *arguments: str) -> Result:
    app = typer.Typer()
    add_to(app)
    return CliRunner().invoke(app, ["models", *arguments, "--model-store", str(store.root)])


def answer(store: ModelStore, *arguments: str) -> Any:
    """The command's output with `--json`, parsed."""
    result = run(store, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
