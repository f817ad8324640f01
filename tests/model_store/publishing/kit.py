"""Helpers for tests of the training: the command line with a backbone, a cache and a store of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from model_store.commands import add_to
from model_store.registry.store import ModelStore

KINDS = ("good", "no cap", "pigmented", "no cap|pigmented")


def commands() -> typer.Typer:
    app = typer.Typer()
    add_to(app)
    return app


@dataclass(frozen=True)
class Bench:
    """A temporary folder with a backbone, a cache and a store, and the command line."""

    root: Path
    backbone: Path

    @property
    def store(self) -> ModelStore:
        return ModelStore(self.root / "models")

    def json(self, *arguments: object) -> dict[str, Any]:
        store = ["--model-store", str(self.store.root), "--json"]
        result = CliRunner().invoke(commands(), [*map(str, arguments), *store])
        if isinstance(result.exception, Exception):
            raise result.exception
        return dict(json.loads(result.stdout))

    def train(self, dataset: Path, *arguments: object) -> dict[str, Any]:
        # The tiny backbone is untrained, so that its head needs more than the default 25 epochs.
        fixed = ["--backbone", self.backbone, "--cache-dir", self.root / "cache", "--epochs", 120]
        return self.json("train", dataset, *fixed, *arguments)
