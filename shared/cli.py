"""Shared by all commands: JSON output, common flags, logging."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.json_text import as_json
from shared.log_format import configure_logging
from shared.masking import has_weak_password, secrets_in_logs
from shared.messages import note

if TYPE_CHECKING:  # pydantic takes longer to import than `sortline --help` may take
    from shared.settings import Settings

log = logging.getLogger("sortline.settings")

# Everybody on the machine can read the arguments of a process.
ARGUMENTS_ARE_PUBLIC = "a password in it is visible in `ps`: use redis_password_file"
RedisUrl = Annotated[str | None, typer.Option(help=f"Redis server, e.g. redis://host:6379/0; {ARGUMENTS_ARE_PUBLIC}")]
JsonFlag = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


def print_json(value: Any) -> None:
    """Print one JSON document to standard output; `as_json` says what it escapes."""
    print(as_json(value, indent=2, ascii_only=not _takes_unicode()))


def print_json_line(value: Any) -> None:
    """Print one JSON document to standard output, on one line, and flush."""
    print(as_json(value, compact=True, ascii_only=not _takes_unicode()), flush=True)


def _takes_unicode() -> bool:
    """Whether standard output is UTF-8."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"


def setup_logging(settings: Settings) -> None:
    """Log to standard error, in the format and at the level that the settings give.

    Warns of misspelled variables, and of a password that a log can't hide.
    """
    hidden = (*secrets_in_logs(settings.redis_url), *secrets_in_logs(settings.model_store))
    configure_logging(log_format=settings.log_format, level=settings.log_level, secrets=hidden)
    if has_weak_password(settings.redis_url):
        log.warning(
            "the password of redis_url is short, the user's name or a common word: it is easy to guess, and logs hide "
            "it in URLs only. Choose a long random one."
        )
    for text in _misspelled_variables():
        log.warning("%s", text)


def warn_of_misspelled_variables() -> None:
    """Name misspelled `SORTLINE_` variables on standard error, for a command that does not log."""
    for text in _misspelled_variables():
        note(f"sortline: {text}")


def _misspelled_variables() -> list[str]:
    if not any(name.upper().startswith("SORTLINE_") for name in os.environ):
        return []  # without the settings, which take a tenth of a second to import
    from shared.settings import misspelled_variables

    return misspelled_variables()
