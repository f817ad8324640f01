"""The lines' streams of results: the last ones, and those that come. Called by `sortline results`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

from pydantic import ValidationError

from shared import keys
from shared.connection import connect, server_errors
from shared.errors import BadJob
from shared.schemas import SortResult
from shared.settings import Settings

# A blocked read ends this often, to notice new lines and a request to stop; well below the socket's timeout.
_BLOCK_MS = 500
_READ_COUNT = 500

_Entries = list[tuple[bytes, dict[bytes, bytes]]]


class ResultStreams:
    """Reads the streams of one line, or of all lines that ever had a result."""

    def __init__(self, settings: Settings, *, line: str | None = None) -> None:
        self._url = settings.redis_url
        self._client = connect(settings.redis_url)
        self._line = line
        self._seen: dict[str, bytes] = {}  # last entry read, by stream

    def close(self) -> None:
        """Give the connections back to the system."""
        self._client.close()

    def last(self, count: int) -> list[SortResult]:
        """The latest `count` results over all the lines, oldest first.

        Raises:
            ServerAway: no answer from the server.
            BadSetting: the server refuses the login.
            BadJob: a stream holds something that is not a SortResult.
        """
        entries: _Entries = []
        with server_errors(self._url):
            for stream in self._streams():
                # Also for a count of 0: following goes on after the entry that is the last one now.
                latest = cast(_Entries, self._client.xrevrange(stream, count=max(count, 1)))
                self._seen[stream] = latest[0][0] if latest else b"0"
                entries += latest
        entries.sort(key=_order)
        return [_result(fields) for _, fields in entries[len(entries) - count :]] if count else []

    def follow(self, stop: threading.Event) -> Iterator[SortResult]:
        """Results as they come, after those that `last` saw, until `stop` is set.

        Raises:
            ServerAway, BadSetting, BadJob: as `last`.
        """
        while not stop.is_set():
            with server_errors(self._url):
                for stream in self._streams():
                    self._seen.setdefault(stream, b"0")  # a line that is new since `last`: from its beginning
                if not self._seen:
                    stop.wait(_BLOCK_MS / 1000)
                    continue
                streams = cast("dict[Any, Any]", self._seen)  # the client's types admit no dict with plain str keys
                answer = self._client.xread(streams, block=_BLOCK_MS, count=_READ_COUNT)
            entries: _Entries = []
            for name, new in cast("list[tuple[bytes, _Entries]]", answer):
                self._seen[name.decode()] = new[-1][0]
                entries += new
            for _, fields in sorted(entries, key=_order):
                yield _result(fields)

    def _streams(self) -> list[str]:
        if self._line is not None:
            return [keys.results(self._line)]
        return sorted(keys.results(line.decode()) for line in cast("set[bytes]", self._client.smembers(keys.LINES)))


def _order(entry: tuple[bytes, dict[bytes, bytes]]) -> tuple[int, int]:
    """Stream ids are `<ms>-<number>`; as text 9-0 would come after 10-0."""
    ms, _, number = entry[0].partition(b"-")
    return int(ms), int(number)


def _result(fields: dict[bytes, bytes]) -> SortResult:
    try:
        return SortResult.model_validate_json(fields[b"result"])
    except (KeyError, ValidationError) as error:
        raise BadJob(f"a stream of results holds what is no SortResult of this version: {error}") from error
