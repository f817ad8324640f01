"""The messages between a worker and its archive's writer, over pipes. Both ends are from the same installation.

request   the lengths of the result and of the image, the result as JSON, the image
answer    a line of JSON: its kind and a text
"""

from __future__ import annotations

import json
import struct
from typing import IO

# Kinds of answers. READY and UNREADY say whether the folder can be written to; while it can't, UNREADY comes again and
# again. WRITTEN and FAILED answer one request each. After FAILED the writer tries the folder again.
READY, UNREADY, WRITTEN, FAILED = "ready", "unready", "written", "failed"

_LENGTHS = struct.Struct("<II")


def request_head(result_json: bytes, image: bytes) -> bytes:
    """A request up to its image, which follows."""
    return _LENGTHS.pack(len(result_json), len(image)) + result_json


def read_request(stream: IO[bytes]) -> tuple[bytes, bytes] | None:
    """Wait for a request; the result as JSON, and the image. None once the other end has closed the stream."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    result_bytes, image_bytes = _LENGTHS.unpack(lengths)
    result_json, image = stream.read(result_bytes), stream.read(image_bytes)
    return (result_json, image) if len(image) == image_bytes else None


def answer(kind: str, text: str = "") -> bytes:
    """An answer, ready to be sent."""
    return json.dumps([kind, text]).encode() + b"\n"


def parse_answer(line: bytes) -> tuple[str, str] | None:
    """The kind and the text of an answer; None for a line that is none, e.g. of a traceback."""
    if not line.startswith(b"["):
        return None
    kind, text = json.loads(line)
    return str(kind), str(text)
