"""Formats log lines as text or JSON.

Imports only the standard library, because a worker's small parent process uses this module too.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from shared.masking import masked_text

# These log whole requests, with their headers, at `debug`.
_TALKATIVE_LIBRARIES = (
    *("aiobotocore", "botocore", "boto3", "s3fs", "gcsfs", "adlfs", "azure"),
    *("fsspec", "urllib3", "aiohttp", "paramiko"),
)

_PLAIN_RECORD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime"}
# Characters that control a terminal or end a line in an editor, with their escapes: `\n` for a newline.
_CONTROL_CHARACTERS = {
    code: chr(code).encode("unicode_escape").decode() for code in (*range(32), *range(127, 160), 0x2028, 0x2029)
}


def escape_controls(text: str) -> str:
    """Return the text on one line, with control characters escaped, because it may quote text from other programs."""
    return text.translate(_CONTROL_CHARACTERS)


class _TextLines(logging.Formatter):
    """One line for each event, and indented lines for its traceback.

    Messages quote text from outside, such as job ids. Its control characters are escaped, so that it can't begin a new
    line or control the terminal.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        super().__init__("%(asctime)sZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        record.message = escape_controls(masked_text(record.message, self._secrets))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # logging's name
        lines = masked_text(super().formatException(ei), self._secrets).split("\n")
        return "\n".join(f"  {escape_controls(line)}" for line in lines)


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
            "message": record.getMessage(),
        }
        fields |= {key: value for key, value in record.__dict__.items() if key not in _PLAIN_RECORD}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        fields = {
            key: masked_text(value, self._secrets) if isinstance(value, str) else value for key, value in fields.items()
        }
        return json.dumps(fields, default=str, ensure_ascii=False)


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
