"""Writes JSON that every reader takes, on every terminal: for `--json` and for logs.

Imports only the standard library, because a worker's small parent process uses this module too.
"""

from __future__ import annotations

import functools
import json
import math
import re
from typing import Any

from shared.printable import CONTROLS, printable

_SURROGATES = re.compile("[\ud800-\udfff]+")
# JSON escapes ASCII's control characters, but not DEL, C1 and the others that `printable` escapes.
_CONTROL = re.compile(f"[{CONTROLS}]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def as_json(value: Any, *, indent: int | None = None, compact: bool = False, ascii_only: bool = False) -> str:
    """The JSON of a value; types that JSON lacks become text.

    Control characters are escaped as JSON does it, so that a reader gets them back. Lone surrogates, which stand for
    the bytes of a name that Python could not decode, become `printable`: many JSON readers refuse a document that has
    them. Numbers that JSON lacks, such as NaN, become null.

    Args:
        value: dicts, lists, texts, numbers.
        indent: spaces for each level; None: all on one line.
        compact: without blanks.
        ascii_only: escape all other characters too.
    """
    encode = functools.partial(
        json.dumps, indent=indent, separators=(",", ":") if compact else None, default=str, ensure_ascii=False
    )
    try:
        text = encode(value, allow_nan=False)
    except ValueError:
        text = encode(_finite(value))
    if text.isascii() and "\x7f" not in text:
        return text
    text = _SURROGATES.sub(lambda found: _inside(printable(found.group())), text)
    escaped = _NOT_ASCII if ascii_only else _CONTROL
    lines = [escaped.sub(_escape, line) for line in text.split("\n")]  # only our own line breaks are left unescaped
    return "\n".join(lines).replace("\x7f", "\\u007f")


def _escape(found: re.Match[str]) -> str:
    return _inside(found.group())


def _inside(text: str) -> str:
    """The text as it stands between the quotation marks of a JSON string."""
    return json.dumps(text)[1:-1]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
