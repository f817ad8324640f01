"""Shared by all commands: JSON output, common flags, logging."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.log_format import configure_logging

if TYPE_CHECKING:  # pydantic takes longer to import than `sortline --help` may take
    from shared.settings import Settings

RedisUrl = Annotated[str | None, typer.Option(help="Redis server, e.g. redis://host:6379/0")]
JsonFlag = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


def print_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def setup_logging(settings: Settings) -> None:
    """Log to standard error, in the format and at the level that the settings give."""
    configure_logging(log_format=settings.log_format, level=settings.log_level)
