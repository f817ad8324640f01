"""Reads the result streams of lines: the latest results, and new ones as they come. Called by `sortline results`."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast

import redis
from pydantic import ValidationError

from shared import keys
from shared.errors import RedisUnavailable
from shared.schemas import SortResult
from shared.server.connection import connect
from shared.server.error_translation import is_wrong_type, server_errors
from shared.settings import Settings

log = logging.getLogger(__name__)

# The longest blocking read. After it, new lines and a request to stop are noticed. Well below the socket timeout.
_BLOCK_MS = 500
_READ_COUNT = 500
_RETRY_S = 0.5
# How often the streams are checked for lost data and for wrong types.
_CHECK_INTERVAL_S = 5.0
# A server that syncs its log every second loses fewer entries than this when it is killed.
_RECENT_IDS = 2000


class _Entry(NamedTuple):
    stream: str
    entry_id: bytes
    fields: dict[bytes, bytes]


class ResultStreams:
    """Reads the streams of one line, or of all lines that ever had a result.

    Bad content in one stream does not affect the others: an entry that is not a SortResult is skipped, and so is a key
    that is not a stream. `on_notice` is called with a sentence about it, once for each stream.
    """

    def __init__(
        self, settings: Settings, *, line: str | None = None, on_notice: Callable[[str], None] = log.warning
    ) -> None:
        self._url = settings.redis_url
        self._client = connect(settings.redis_url)
        self._line = line
        self._on_notice = on_notice
        self._seen: dict[str, bytes] = {}  # last entry read, by stream
        self._recent: dict[str, deque[bytes]] = {}  # ids of the latest entries read, by stream
        self._unreadable: set[str] = set()  # streams whose key holds another type
        self._with_bad_entries: set[str] = set()
        self._check_at = float("-inf")

    def close(self) -> None:
        """Close the connections to the server."""
        self._client.close()

    def last(self, count: int) -> list[SortResult]:
        """Return the latest `count` results over all the lines, oldest first.

        Raises:
            RedisUnavailable, BadSetting, CommandRefused: as `server_errors`.
        """
        entries: list[_Entry] = []
        with server_errors(self._url):
            for stream in self._streams():
                # Read at least one entry, even for a count of 0: `follow` continues after the entry that is last now.
                entries += self._latest(stream, max(count, 1))
        entries.sort(key=_order)
        return list(self._results(entries[-count:])) if count else []

    def _latest(self, stream: str, count: int) -> list[_Entry]:
        self._seen[stream] = b"0"
        try:
            answer = cast("list[tuple[bytes, dict[bytes, bytes]]]", self._client.xrevrange(stream, count=count))
        except redis.exceptions.ResponseError as error:
            if not is_wrong_type(error):
                raise
            self._skip(stream)
            return []
        return self._advance(stream, answer[::-1])

    def follow(self, stop: threading.Event, *, latest: int | None = None) -> Iterator[SortResult]:
        """Yield results as they come, after those that `last` returned, until `stop` is set.

        Waits while the server is unavailable. If the server lost its data, so that a stream was started again, the
        stream is read from its beginning. `on_notice` is called with a sentence about each such event.

        Args:
            stop: set this event to end.
            latest: begin with this many of the latest results, as `last` returns them.

        Raises:
            BadSetting, CommandRefused: as `server_errors`.
        """
        if latest is not None:
            yield from self._retry_until_available(lambda: self.last(latest), stop)
        while not stop.is_set():
            yield from self._retry_until_available(lambda: self._read_new(stop), stop)

    def _retry_until_available(self, read: Callable[[], list[SortResult]], stop: threading.Event) -> list[SortResult]:
        """Return what `read` returns. Retries while the server is unavailable; returns [] once `stop` is set."""
        was_unavailable = False
        while not stop.is_set():
            try:
                results = read()
            except RedisUnavailable as error:
                if not was_unavailable:
                    self._on_notice(f"{error} Waiting.")
                was_unavailable = True
                self._check_at = float("-inf")  # the server may come back with less data than it had
                stop.wait(_RETRY_S)
                continue
            if was_unavailable:
                self._on_notice("the Redis server answers again.")
            return results
        return []

    def _read_new(self, stop: threading.Event) -> list[SortResult]:
        with server_errors(self._url):
            for stream in self._streams():
                self._seen.setdefault(stream, b"0")  # a line that is new since `last` is read from its beginning
            if time.monotonic() >= self._check_at:
                self._check_streams()
                self._check_at = time.monotonic() + _CHECK_INTERVAL_S
            streams: dict[Any, Any] = {key: at for key, at in self._seen.items() if key not in self._unreadable}
            if not streams:
                stop.wait(_BLOCK_MS / 1000)
                return []
            try:
                answer = self._client.xread(streams, block=_BLOCK_MS, count=_READ_COUNT)
            except redis.exceptions.ResponseError as error:
                if not is_wrong_type(error):
                    raise
                self._check_at = float("-inf")  # the check finds out which key has the wrong type
                return []
        entries: list[_Entry] = []
        for name, new in cast("list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]", answer):
            entries += self._advance(name.decode(), new)
        return list(self._results(sorted(entries, key=_order)))

    def _advance(self, stream: str, answer: list[tuple[bytes, dict[bytes, bytes]]]) -> list[_Entry]:
        """Note that these entries, oldest first, were read; returns them as `_Entry`."""
        entries = [_Entry(stream, entry_id, fields) for entry_id, fields in answer]
        if entries:
            self._seen[stream] = entries[-1].entry_id
            self._recent.setdefault(stream, deque(maxlen=_RECENT_IDS)).extend(entry.entry_id for entry in entries)
        return entries

    # bad or lost content ───────────────────────────────────────────────────────────────────────

    def _check_streams(self) -> None:
        """Compare the first and last entry of each stream with the last entry read."""
        streams = list(self._seen)
        with self._client.pipeline(transaction=False) as pipe:
            for stream in streams:
                pipe.xrange(stream, count=1)
                pipe.xrevrange(stream, count=1)
            ends = pipe.execute(raise_on_error=False)
        for stream, first, last in zip(streams, ends[::2], ends[1::2], strict=True):
            if is_wrong_type(first):
                self._skip(stream)
                continue
            for answer in (first, last):
                if isinstance(answer, Exception):
                    raise answer
            self._unreadable.discard(stream)
            if self._seen[stream] != b"0":
                self._check_position(stream, first[0][0] if first else None, last[0][0] if last else None)

    def _check_position(self, stream: str, first: bytes | None, last: bytes | None) -> None:
        """Go back if the stream ends before the last entry read: XREAD would wait until the ids catch up."""
        seen, recent = _parts(self._seen[stream]), self._recent[stream]
        is_behind = last is not None and _parts(last) < seen
        if first is None or last is None or _parts(first) > seen or (is_behind and last not in recent):
            self._seen[stream] = b"0"
            recent.clear()
            self._on_notice(
                f"{stream}: the results shown so far are no longer on the server: they were lost, trimmed or expired. "
                "The stream is read again from its beginning."
            )
        elif is_behind:
            self._seen[stream] = last
            self._on_notice(f"{stream}: the server has lost the latest results. New results will be shown.")

    def _skip(self, stream: str) -> None:
        if stream not in self._unreadable:
            self._unreadable.add(stream)
            self._on_notice(f"{stream}: this key on the server is not a stream of results. It is skipped.")

    def _results(self, entries: Iterable[_Entry]) -> Iterator[SortResult]:
        for stream, entry_id, fields in entries:
            try:
                yield SortResult.model_validate_json(fields[b"result"])
            except (KeyError, ValidationError):
                if stream not in self._with_bad_entries:
                    self._with_bad_entries.add(stream)
                    self._on_notice(
                        f"{stream}: entry {entry_id.decode()} is not a SortResult that this version can read. Such "
                        "entries are skipped."
                    )

    def _streams(self) -> Iterable[str]:
        if self._line is not None:
            return [keys.results(self._line)]
        lines = cast("set[bytes]", self._client.smembers(keys.LINES))
        return sorted(keys.results(line.decode(errors="replace")) for line in lines)


def _order(entry: _Entry) -> tuple[int, int]:
    return _parts(entry.entry_id)


def _parts(entry_id: bytes) -> tuple[int, int]:
    """Split a stream id, `<ms>-<number>`, into numbers, because as text 9-0 would come after 10-0."""
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number)
