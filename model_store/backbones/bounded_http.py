"""HTTP for servers that nobody vouches for: an answer's head is bounded, and its bytes must keep coming.

In: nothing. Out: handlers for `urllib.request.build_opener`. Called by `download`, which bounds the body. Python's own
client reads `100 Continue` and the lines after the last chunk for as long as a server sends them, and its timeout is
for each read: a byte now and then is enough to hold it for ever.
"""

from __future__ import annotations

import http.client
import io
import time
import urllib.request
from collections.abc import Callable
from typing import Any

# Lines of an answer's head, and those between the chunks of its body, beyond one byte for each byte of the body.
MAX_LINE_BYTES = 1_000_000
# After the first minute. A mobile connection on the edge of its network gives ten times as much.
MIN_BYTES_PER_S = 1_000
GRACE_S = 60.0


class UnboundedAnswer(http.client.HTTPException):
    """A server's answer has no end, or comes too slowly. The text says which."""


class PacedStream(io.RawIOBase):
    """A stream that is refused when it brings too few bytes in too much time."""

    def __init__(self, raw: io.RawIOBase, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._raw = raw
        self._clock = clock
        self._started_at = clock()
        self._read_bytes = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """See `io.RawIOBase`.

        Raises:
            UnboundedAnswer: since it was opened, it brought less than MIN_BYTES_PER_S.
        """
        count = self._raw.readinto(buffer)
        self._read_bytes += count or 0
        took_s = self._clock() - self._started_at
        if took_s > GRACE_S and self._read_bytes < took_s * MIN_BYTES_PER_S:
            raise UnboundedAnswer(
                f"the server sent {self._read_bytes:,} bytes in {took_s:.0f} s, less than {MIN_BYTES_PER_S:,} a second"
            )
        return count

    def close(self) -> None:
        """Close the stream below as well."""
        self._raw.close()
        super().close()


class _BoundedLines(io.BufferedReader):
    """A buffered stream of which only so many bytes may be lines. The others are the answer's body."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self._line_bytes = 0
        self._body_bytes = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self._line_bytes += len(line)
        if self._line_bytes > MAX_LINE_BYTES + self._body_bytes:
            raise UnboundedAnswer(f"the server sent more than {MAX_LINE_BYTES:,} bytes of headers")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._body_bytes += len(data)
        return data


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fp = _BoundedLines(PacedStream(self.fp.detach()))


class _HTTPConnection(http.client.HTTPConnection):
    response_class = _BoundedResponse


class _HTTPSConnection(http.client.HTTPSConnection):
    response_class = _BoundedResponse


class BoundedHTTP(urllib.request.HTTPHandler):
    """Opens http:// addresses."""

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """See `urllib.request.HTTPHandler`."""
        return self.do_open(_HTTPConnection, req)


class BoundedHTTPS(urllib.request.HTTPSHandler):
    """Opens https:// addresses; certificates are checked as Python does by default."""

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """See `urllib.request.HTTPSHandler`."""
        return self.do_open(_HTTPSConnection, req)
