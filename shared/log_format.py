"""Formats log lines as text or JSON.

Messages quote text from outside, such as job ids and errors of other programs. It can't begin a new line, control the
terminal or fill the disk: control characters are escaped, and the middle of a long text is left out.

Imports only the standard library, because a worker's small parent process uses this module too.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from shared.json_text import as_json
from shared.masking import masked_text
from shared.printable import MAX_LINE_CHARACTERS, cut, one_line

# These log whole requests, with their headers, at `debug`.
_TALKATIVE_LIBRARIES = (
    *("aiobotocore", "botocore", "boto3", "s3fs", "gcsfs", "adlfs", "azure"),
    *("fsspec", "urllib3", "aiohttp", "paramiko"),
)

_PLAIN_RECORD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime"}
# Of a longer traceback the first lines and the last ones are logged; the last one is the error.
_FIRST_LINES, _LAST_LINES = 10, 90
_LINE_CHARACTERS = 1_000
# A log collector may refuse or split a longer line. With all its fields an event of ours has a few hundred bytes.
_MAX_JSON_CHARACTERS = 4 * MAX_LINE_CHARACTERS


class _TextLines(logging.Formatter):
    """One line for each event, and indented lines for its traceback."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        super().__init__("%(asctime)sZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        record.message = one_line(masked_text(record.message, self._secrets))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # logging's name
        lines = _without_middle(masked_text(super().formatException(ei), self._secrets).split("\n"))
        return "\n".join(f"  {one_line(line, max_characters=_LINE_CHARACTERS)}" for line in lines)


class _JsonLines(logging.Formatter):
    """One JSON object per line; the `extra` of a log call becomes fields."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "at": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": cut(masked_text(record.getMessage(), self._secrets)),
        }
        extra = {
            key: masked_text(value, self._secrets) if isinstance(value, str) else value
            for key, value in record.__dict__.items()
            if key not in _PLAIN_RECORD
        }
        if record.exc_info:
            lines = _without_middle(masked_text(self.formatException(record.exc_info), self._secrets).split("\n"))
            extra["exception"] = "\n".join(cut(line, max_characters=_LINE_CHARACTERS) for line in lines)
        text = as_json(fields | extra)
        return text if len(text) <= _MAX_JSON_CHARACTERS else as_json(fields | _shortened(extra))


def _without_middle(lines: list[str]) -> list[str]:
    left_out = len(lines) - _FIRST_LINES - _LAST_LINES
    if left_out <= 0:
        return lines
    return [*lines[:_FIRST_LINES], f"  [... cut: {len(lines):,} lines in all ...]", *lines[-_LAST_LINES:]]


def _shortened(extra: dict[str, Any]) -> dict[str, Any]:
    """The fields, the long ones cut; what is no short text becomes one."""
    max_characters = _MAX_JSON_CHARACTERS // 4 // max(1, len(extra))

    def shortened(value: Any) -> Any:
        if isinstance(value, bool | int | float | None):
            return value
        return cut(_text(value), max_characters=max_characters)

    return {key[:_LINE_CHARACTERS]: shortened(value) for key, value in extra.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`. A progress bar replaces it, to print log lines above the bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute in logging
        return sys.stderr


def configure_logging(*, log_format: str, level: str, secrets: Sequence[str] = ()) -> None:
    """Log to standard error, as `json` or `text`, at this level and above.

    The secrets of URLs are masked in every line. `secrets` are masked too, wherever they stand: libraries quote pieces.
    """
    handler = _StandardError()
    handler.setFormatter(_JsonLines(secrets) if log_format == "json" else _TextLines(secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _TALKATIVE_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
