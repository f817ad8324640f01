"""A command of `sortline` that ends with its caller. Run as a process: `python -m torture.campaigns.command_program …`.

`classify` has the model that takes no time: the torture needs no published model.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import model_store.commands.classify as command
from bench.engines.null import NullEngine, null_model
from model_store.bundle.files import Bundle
from model_store.engines.protocol import Engine
from shared.settings import Settings
from torture.plant.lifeline import end_with_caller

SIZE_PX = 224


def _open_model(settings: Settings) -> tuple[Bundle, Engine]:
    manifest = null_model(settings).manifest.model_copy(update={"input_size_px": SIZE_PX})
    return Bundle(Path(), manifest), NullEngine()


def main() -> None:
    """Run the command."""
    end_with_caller()
    setattr(command, "open_model", _open_model)  # noqa: B010 - the command takes it from elsewhere
    runpy.run_module("sortline", run_name="__main__")  # as `python -m sortline` does


if __name__ == "__main__":
    main()
