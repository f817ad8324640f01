"""What a decoder process and its starter tell each other, over pipes. Both ends are of one installation.

request   how many bytes of options and of file follow, the options as JSON, the file
answer    its kind, how many bytes follow, and these: pixels, a refusal as JSON, or text
"""

from __future__ import annotations

import json
import struct
from typing import IO, Any

# Kinds of answers. READY comes once, before the first request.
READY, PIXELS, REFUSED, NO_MEMORY, FAILED = b"y", b"p", b"r", b"m", b"f"
# The most characters of a text.
MAX_TEXT = 4_000
# The most bytes of an answer besides pixels: JSON takes up to 6 for a character.
_MAX_TEXT_BYTES = 8 * MAX_TEXT

_REQUEST = struct.Struct("<II")
_ANSWER = struct.Struct("<cI")


def send_request(stream: IO[bytes], options: dict[str, Any], data: bytes) -> None:
    """Raises OSError if nobody reads any more."""
    text = json.dumps(options).encode()
    stream.write(_REQUEST.pack(len(text), len(data)) + text)
    stream.write(data)
    stream.flush()


def read_request(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Raises EOFError when the other end has closed the stream."""
    options_bytes, data_bytes = _REQUEST.unpack(_exactly(stream, _REQUEST.size))
    options: dict[str, Any] = json.loads(_exactly(stream, options_bytes))
    return options, _exactly(stream, data_bytes)


def send_answer(stream: IO[bytes], kind: bytes, content: bytes = b"") -> None:
    """Raises OSError if nobody reads any more."""
    stream.write(_ANSWER.pack(kind, len(content)))
    stream.write(content)
    stream.flush()


def read_answer(stream: IO[bytes], *, pixel_bytes: int) -> tuple[bytes, bytes]:
    """The kind and the content of one answer.

    Raises:
        EOFError: the other end has closed the stream.
        ValueError: no answer. A codec that was taken over by an image might send anything.
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
