"""Redis's protocol, as far as the proxy must understand it: where a request ends, and how many answers have come."""

from __future__ import annotations

from collections.abc import Iterator

import hiredis


class Requests:
    """Cuts a client's bytes into whole requests, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The requests that are complete with these bytes."""
        self._buffer += data
        start = 0
        while (end := _end_of_request(self._buffer, start)) is not None:
            self.count += 1
            yield bytes(self._buffer[start:end])
            start = end
        del self._buffer[:start]


def _end_of_request(buffer: bytearray, start: int) -> int | None:
    """Where the request at `start` ends; None while it is incomplete. Its form: `*2 $4 LLEN $1 q`, each on a line."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    position = line_end + 2
    for _ in range(int(buffer[start + 1 : line_end])):
        line_end = buffer.find(b"\r\n", position)
        if line_end < 0:
            return None
        position = line_end + 2 + int(buffer[position + 1 : line_end]) + 2
    return position if position <= len(buffer) else None


class Answers:
    """Counts a server's answers."""

    _INCOMPLETE = object()

    def __init__(self) -> None:
        self.count = 0
        self._reader = hiredis.Reader(notEnoughData=self._INCOMPLETE)

    def feed(self, data: bytes) -> None:
        """Count the answers that are complete with these bytes."""
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not self._INCOMPLETE:
            # The server sends push messages without a request (RESP3).
            self.count += not isinstance(answer, hiredis.PushNotification)
