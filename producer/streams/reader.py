"""Reads the results of one line, or of all lines, as they come."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import redis

from producer.streams.entries import (
    BEGINNING,
    BLOCK_MS,
    READ_COUNT,
    Entry,
    EntryParser,
    PatientCalls,
    RawEntry,
    RecentJobs,
    id_parts,
    lines_with_results,
    report_unknown_line,
)
from producer.streams.gaps import Gap, StreamInfo, find_gap, find_miscount, read_infos
from producer.streams.notices import Notice, NoticeKind, OnNotice, log_notice
from producer.streams.position_file import PositionFile, checked_position
from shared import keys
from shared.errors import BadSetting
from shared.schemas import NAME_RULE, SortResult, is_name
from shared.server.connection import check, connect
from shared.server.error_translation import is_wrong_type, server_errors
from shared.settings import Settings, load_settings

# How often the streams are checked for gaps if all lines are read. With one line, its stream is checked before each
# read.
_CHECK_INTERVAL_S = 5.0
# A server that syncs its log every second loses fewer entries than this when it is killed.
_RECENT_ENTRIES = 2_000
_RECENT_JOBS = 20_000
_PAGE = 1_000


@dataclass(slots=True)
class _Followed:
    """How far the stream of one line has been read."""

    at: bytes  # the last entry read
    handled: bytes  # the last entry handled; they are handled in the order in which they are read
    number: int | None = None  # how many entries had been added up to `at`, if known
    recent: deque[bytes] = field(default_factory=lambda: deque(maxlen=_RECENT_ENTRIES))  # latest ids up to `at`


class ResultReader:
    """Reads results in the order in which they were written, each once, and continues where it was after a restart.

    `follow` yields results without end. A result counts as handled when the loop over `follow` asks for the next one.
    `position` says which results were handled. If it is kept and given to the next reader, or if a `position_file` is
    named, reading continues there after a restart: only a result that was being handled comes again. A second result of
    the same job, which a repeated or requeued job has, is dropped.

    Bad content in one stream does not affect the others: an entry that is not a SortResult is skipped, and so is a key
    that is not a stream. `on_notice` is called for these, for outages of the server, for results that are gone, and
    for a line that has no results while others have.

    One thread at a time may use it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        line: str | None = None,
        position: Mapping[str, str] | None = None,
        position_file: Path | str | None = None,
        only: Callable[[SortResult], bool] | None = None,
        drop_duplicates: bool = True,
        on_notice: OnNotice = log_notice,
    ) -> None:
        """Store the arguments and read the position file. Nothing is read from the server yet.

        Args:
            settings: `redis_url` names the server; None means the settings of the environment.
            line: only this line; None means all lines that have results.
            position: where to continue: the `position` of an earlier reader. If all lines are read, one that is not in
                it is new, and is read from its beginning.
            position_file: keep the position in this file instead. Each reader needs a file of its own.
            only: yield only results for which this function returns True.
            drop_duplicates: leave out a result if its job is among those of the latest 20,000 results.
            on_notice: called with each Notice; the default logs it as a warning.

        Raises:
            BadSetting: `line` can't be the name of a line, or the position can't be used.
        """
        settings = settings or load_settings()
        if line is not None and not is_name(line):
            raise BadSetting(f"line = {line!r}: {NAME_RULE}.")
        if position is not None and position_file is not None:
            raise BadSetting("give the reader a position or a position_file, not both.")
        self._url = settings.redis_url
        self._client = connect(settings.redis_url)
        self._line = line
        self._only = only
        self._on_notice = on_notice
        self._file = None if position_file is None else PositionFile(Path(position_file), on_notice)
        given = self._file.load() if self._file else checked_position(position or {}, where="position")
        self._given = {line: at.encode() for line, at in given.items()}
        self._parser = EntryParser(on_notice)
        self._jobs = RecentJobs(_RECENT_JOBS if drop_duplicates else 0)
        self._followed: dict[str, _Followed] = {}
        self._unhandled: deque[Entry] = deque()
        self._has_begun = False
        self._unreadable: set[str] = set()  # lines whose key is not a stream
        self._check_at = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the server."""
        self._client.close()

    @property
    def position(self) -> dict[str, str]:
        """The id of the last entry handled, by line. Can be kept as JSON."""
        given = {line: at.decode() for line, at in self._given.items()}
        return given | {line: followed.handled.decode() for line, followed in self._followed.items()}

    @property
    def skipped(self) -> int:
        """How many entries that are not SortResults were skipped so far."""
        return self._parser.skipped

    def last(self, count: int) -> list[SortResult]:
        """Return the latest `count` results over all the lines, oldest first. `follow` continues after them.

        Raises:
            RedisUnavailable, BadSetting, CommandRefused: as `server_errors` raises them.
        """
        return [entry.result for entry in self._begin(count)]

    def follow(self, stop: threading.Event | None = None, *, latest: int = 0) -> Iterator[SortResult]:
        """Yield results as they come, until `stop` is set.

        Begins at the position, if one was given or a result was read before; otherwise with the `latest` results on the
        server. Waits while the server is unavailable. If the server lost its data, so that a stream was started again,
        the stream is read from its beginning.

        Raises:
            BadSetting, CommandRefused: as `server_errors` raises them.
        """
        stop = stop or threading.Event()
        calls = PatientCalls(self._on_notice, stop, on_outage=self._check_soon)
        if not self._has_begun:
            self._unhandled.extend(calls.call(lambda: self._begin(latest)) or ())
        while not stop.is_set():
            if not self._unhandled:
                self._unhandled.extend(calls.call(lambda: self._read_new(stop)) or ())
            while self._unhandled and not stop.is_set():
                entry = self._unhandled[0]
                if is_wanted := self._is_wanted(entry.result):
                    yield entry.result
                self._mark_handled(self._unhandled.popleft(), save=is_wanted)
            self._save()

    # positions ─────────────────────────────────────────────────────────────────────────────────

    def _is_wanted(self, result: SortResult) -> bool:
        return result.job_id not in self._jobs and (self._only is None or self._only(result))

    def _mark_handled(self, entry: Entry, *, save: bool) -> None:
        self._jobs.add(entry.result.job_id)
        self._followed[entry.line].handled = entry.entry_id
        if save:
            self._save()

    def _save(self) -> None:
        if self._file is not None:
            self._file.save(self.position)

    def _check_soon(self) -> None:
        self._check_at = float("-inf")

    def _begin(self, count: int) -> list[Entry]:
        """Find where to continue in each line. Returns the latest `count` entries of the lines without a position."""
        entries: list[Entry] = []
        check(self._client, self._url)  # the client itself does not notice that the other side expects TLS
        with server_errors(self._url):
            # A line that got its first result while no reader of all lines was running has no position yet.
            new_line_at = BEGINNING if self._given and self._line is None else None
            for line in self._lines():
                at = self._given.get(line, new_line_at)
                if at is None:
                    entries += self._latest(line, count)
                else:
                    self._resume(line, at)
            if self._line is not None and self._followed[self._line].at == BEGINNING:
                report_unknown_line(self._client, self._line, self._on_notice)
        self._has_begun = True
        entries.sort(key=_order)
        return entries[-count:] if count else []

    def _resume(self, line: str, at: bytes) -> None:
        """Continue after `at`. Reads the entries up to it, to know duplicates and to notice when the end is lost.

        A stream that was started again while the server's clock was behind looks like one that has lost its end. The
        results that it has are skipped.
        """
        followed = self._followed[line] = _Followed(at, at)
        raw = self._page(line, at, _RECENT_ENTRIES)
        followed.recent.extend(entry_id for entry_id, _ in reversed(raw))
        for entry in self._parser.parse(line, reversed(raw)):
            self._jobs.add(entry.result.job_id)

    def _latest(self, line: str, count: int) -> list[Entry]:
        """Return the latest entries of a line that `only` accepts, oldest first."""
        followed = self._followed[line] = _Followed(BEGINNING, BEGINNING)
        found: list[Entry] = []
        # Read at least one entry, even for a count of 0: `follow` continues after the entry that is last now.
        before, page = "+", _PAGE if self._only else min(_PAGE, max(count, 1))
        while raw := self._page(line, before, page):
            if before == "+":
                followed.at = followed.handled = raw[0][0]
            followed.recent.extendleft(entry_id for entry_id, _ in raw[: _RECENT_ENTRIES - len(followed.recent)])
            found += [
                entry for entry in self._parser.parse(line, raw) if self._only is None or self._only(entry.result)
            ]
            if len(found) >= count:
                break
            before = f"({raw[-1][0].decode()}"
        return found[:count][::-1]

    def _page(self, line: str, before: str | bytes, count: int) -> list[RawEntry]:
        """Return up to `count` entries, newest first; none if the key is not a stream."""
        try:
            return cast("list[RawEntry]", self._client.xrevrange(keys.results(line), max=before, count=count))
        except redis.exceptions.ResponseError as error:
            if not is_wrong_type(error):
                raise
            self._skip(line)
            return []

    # reading ───────────────────────────────────────────────────────────────────────────────────

    def _read_new(self, stop: threading.Event) -> list[Entry]:
        with server_errors(self._url):
            for line in self._lines():  # a line that is new since `_begin` is read from its beginning
                self._followed.setdefault(line, _Followed(BEGINNING, BEGINNING))
            self._check_if_due()
            streams = {
                keys.results(line): followed.at
                for line, followed in self._followed.items()
                if line not in self._unreadable
            }
            if not streams:
                stop.wait(BLOCK_MS / 1000)
                return []
            try:
                answer = self._client.xread(cast(Any, streams), block=BLOCK_MS, count=READ_COUNT)
            except redis.exceptions.ResponseError as error:
                if not is_wrong_type(error):
                    raise
                self._check_soon()  # the check finds out which key has the wrong type
                return []
        lines = {keys.results(line).encode(): line for line in self._followed}
        entries: list[Entry] = []
        for name, raw in cast("list[tuple[bytes, list[RawEntry]]]", answer):
            entries += self._advance(lines[name], raw)
        return sorted(entries, key=_order)

    def _advance(self, line: str, raw: list[RawEntry]) -> Iterator[Entry]:
        """Note that these entries, oldest first, were read. Returns those that are results."""
        followed = self._followed[line]
        followed.at = raw[-1][0]
        if followed.number is not None:
            followed.number += len(raw)
        followed.recent.extend(entry_id for entry_id, _ in raw)
        return self._parser.parse(line, raw)

    def _check_if_due(self) -> None:
        if self._line is None and time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + _CHECK_INTERVAL_S
        lines = list(self._followed)
        for line, info in zip(lines, read_infos(self._client, lines), strict=True):
            if info is None:
                self._skip(line)
                continue
            self._unreadable.discard(line)
            self._check_position(line, info)

    def _check_position(self, line: str, info: StreamInfo) -> None:
        followed = self._followed[line]
        gap = find_gap(line, followed.at, info, number=followed.number, recent=followed.recent)
        if gap is not None:
            self._go_on_after(gap, followed)
        elif info.last_generated == followed.at:
            missed = find_miscount(line, followed.at, info, number=followed.number, recent=followed.recent)
            followed.number = info.added
            if missed is not None:
                self._on_notice(missed)

    def _go_on_after(self, gap: Gap, followed: _Followed) -> None:
        followed.at = followed.handled = gap.go_on_after
        followed.number = None
        self._on_notice(gap.notice)

    def _skip(self, line: str) -> None:
        if line not in self._unreadable:
            self._unreadable.add(line)
            text = f"{keys.results(line)}: this key on the server is not a stream of results. It is skipped."
            self._on_notice(Notice(NoticeKind.UNREADABLE, text, line))

    def _lines(self) -> list[str]:
        """The lines to read: also those that have a position but no results any more, because that is a gap."""
        if self._line is not None:
            return [self._line]
        return sorted(self._given.keys() | lines_with_results(self._client))


def _order(entry: Entry) -> tuple[int, int]:
    return id_parts(entry.entry_id)
