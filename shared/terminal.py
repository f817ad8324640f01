"""What every command shares: JSON output, the flags that all have, logs."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # pydantic takes longer to import than `sortline --help` may take
    from shared.settings import Settings

RedisUrl = Annotated[str | None, typer.Option(help="Redis server, e.g. redis://host:6379/0")]
JsonFlag = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]

_PLAIN_RECORD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime"}


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


class _JsonLines(logging.Formatter):
    """One JSON object a line; what a call passes as `extra` becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "at": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {key: value for key, value in record.__dict__.items() if key not in _PLAIN_RECORD}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


def setup_logging(settings: Settings) -> None:
    """Log to standard error, in the form and from the level that the settings ask for."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_JsonLines())
    else:
        text = logging.Formatter("%(asctime)sZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        text.converter = time.gmtime
        handler.setFormatter(text)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
