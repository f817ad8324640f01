"""The messages between a decoder process and its starter, over pipes. Both ends are from the same installation.

request   the lengths of the options and of the file, the options as JSON, the file
answer    its kind, the length of its content, the content: pixels, a refusal as JSON, or text
"""

from __future__ import annotations

import json
import struct
from typing import IO, Any

# Kinds of answers. READY is sent once, before the first request.
READY, PIXELS, REFUSED, NO_MEMORY, FAILED = b"y", b"p", b"r", b"m", b"f"
# Maximum number of characters in a text.
MAX_TEXT = 4_000
# Maximum number of bytes of an answer that is not pixels: JSON takes up to 6 bytes per character.
_MAX_TEXT_BYTES = 8 * MAX_TEXT

_REQUEST = struct.Struct("<II")
_ANSWER = struct.Struct("<cI")


def send_request(stream: IO[bytes], options: dict[str, Any], data: bytes) -> None:
    """Send a request. Raises OSError if the other end has stopped reading."""
    text = json.dumps(options).encode()
    stream.write(_REQUEST.pack(len(text), len(data)) + text)
    stream.write(data)
    stream.flush()


def read_request(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Wait for a request; returns its options and its file. Raises EOFError if the other end has closed the stream."""
    options_bytes, data_bytes = _REQUEST.unpack(_exactly(stream, _REQUEST.size))
    options: dict[str, Any] = json.loads(_exactly(stream, options_bytes))
    return options, _exactly(stream, data_bytes)


def send_answer(stream: IO[bytes], kind: bytes, content: bytes = b"") -> None:
    """Send an answer. Raises OSError if the other end has stopped reading."""
    stream.write(_ANSWER.pack(kind, len(content)))
    stream.write(content)
    stream.flush()


def read_answer(stream: IO[bytes], *, pixel_bytes: int) -> tuple[bytes, bytes]:
    """Wait for an answer; returns its kind and its content.

    Raises:
        EOFError: the other end has closed the stream.
        ValueError: this is not a valid answer. A malicious image that has taken over a codec might send anything.
    """
    kind, size_bytes = _ANSWER.unpack(_exactly(stream, _ANSWER.size))
    if (kind == PIXELS and size_bytes != pixel_bytes) or size_bytes > max(pixel_bytes, _MAX_TEXT_BYTES):
        raise ValueError(f"the decoder process answered {size_bytes:,} bytes instead of {pixel_bytes:,}")
    return kind, _exactly(stream, size_bytes)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data
