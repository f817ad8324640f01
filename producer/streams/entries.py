"""Entries of result streams, and what all readers need: parsing, duplicates, names of lines, waiting for the server."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar, cast

import redis

from producer.streams.notices import Notice, NoticeKind, OnNotice
from producer.streams.result_parsing import parse_result
from shared import keys
from shared.errors import QueueFull, RedisUnavailable
from shared.schemas import SortResult, is_name

T = TypeVar("T")

# The longest blocking read. After it, new lines and a request to stop are noticed. Well below the socket timeout.
BLOCK_MS = 500
READ_COUNT = 500
RETRY_S = 0.5
# The position before the first entry of a stream.
BEGINNING = b"0"

# The greatest number that can follow the dash of an id.
_LAST_NUMBER = 2**64 - 1

# An entry as the client returns it. The fields are None if a group still has the id of an entry that was trimmed.
RawEntry = tuple[bytes, dict[bytes, bytes] | None]


class Entry(NamedTuple):
    """One result, its line, and its place in the stream."""

    line: str
    entry_id: bytes
    result: SortResult


class EntryParser:
    """Turns entries into results. Entries that are not SortResults are skipped, counted and reported.

    Of each line the first one is reported, and again the tenth, the hundredth and so on, because there may be many.
    """

    def __init__(self, on_notice: OnNotice) -> None:
        self._on_notice = on_notice
        self._skipped: Counter[str] = Counter()

    @property
    def skipped(self) -> int:
        """How many entries were skipped so far, of all lines."""
        return self._skipped.total()

    def parse(self, line: str, raw: Iterable[RawEntry]) -> Iterator[Entry]:
        """Yield the results among these entries of a line."""
        for entry_id, fields in raw:
            try:
                yield Entry(line, entry_id, parse_result((fields or {})[b"result"]))
            except (KeyError, ValueError):
                self._skip(line, entry_id)

    def _skip(self, line: str, entry_id: bytes) -> None:
        self._skipped[line] += 1
        count = self._skipped[line]
        if str(count).strip("0") != "1":
            return
        so_far = f" {count:,} were skipped so far." if count > 1 else ""
        text = (
            f"{keys.results(line)}: entry {entry_id.decode()} is not a SortResult that this version can read. Such "
            f"entries are skipped.{so_far}"
        )
        self._on_notice(Notice(NoticeKind.UNREADABLE, text, line))


class RecentJobs:
    """Remembers the job ids of the latest results, at most `most` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._job_ids: dict[str, None] = {}  # oldest first

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._job_ids

    def add(self, job_id: str) -> None:
        """Remember this job id, and forget the oldest one if there are too many."""
        self._job_ids[job_id] = None
        if len(self._job_ids) > self._most:
            del self._job_ids[next(iter(self._job_ids))]


class PatientCalls:
    """Makes calls to the server, and retries while it is unavailable. Reports each outage once."""

    def __init__(self, on_notice: OnNotice, stop: threading.Event, *, on_outage: Callable[[], None]) -> None:
        """`on_outage` is called at each failure, because the server may come back with less data than it had."""
        self._on_notice = on_notice
        self._stop = stop
        self._on_outage = on_outage

    def call(self, work: Callable[[], T]) -> T | None:
        """Return what `work` returns. Retries while the server is unavailable; returns None once `stop` is set."""
        was_unavailable = False
        while True:
            try:
                answer = work()
            except (RedisUnavailable, QueueFull) as error:  # a server whose memory is full can't create a group
                if not was_unavailable:
                    self._on_notice(Notice(NoticeKind.UNAVAILABLE, f"{error} Waiting."))
                was_unavailable = True
                self._on_outage()
                if self._stop.wait(RETRY_S):
                    return None
                continue
            if was_unavailable:
                self._on_notice(Notice(NoticeKind.AVAILABLE, "the Redis server answers again."))
            return answer


def lines_with_results(client: redis.Redis) -> set[str]:
    """The lines that have results. Another program may have put a name there that no line can have: it is left out."""
    names = cast("set[bytes]", client.smembers(keys.LINES))
    return set(filter(is_name, (name.decode(errors="replace") for name in names)))


def report_unknown_line(client: redis.Redis, line: str, on_notice: OnNotice) -> None:
    """Report a line that has no results while others have. Says nothing if the server refuses to name the others."""
    try:
        lines = lines_with_results(client)
    except redis.exceptions.ResponseError:  # e.g. this user has no right to the set; the results can be read without
        return
    if lines and line not in lines:
        text = f"no line {line!r} has results yet; lines with results: {', '.join(sorted(lines))}."
        on_notice(Notice(NoticeKind.UNKNOWN_LINE, text, line))


def id_before(entry_id: bytes) -> bytes:
    """Return the greatest id below this one."""
    ms, number = id_parts(entry_id)
    return b"%d-%d" % ((ms, number - 1) if number else (ms - 1, _LAST_NUMBER))


def id_parts(entry_id: bytes) -> tuple[int, int]:
    """Split a stream id, `<ms>-<number>`, into numbers, because as text 9-0 would come after 10-0."""
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number or 0)
