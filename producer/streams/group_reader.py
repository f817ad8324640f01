"""Reads the results of one line as a member of a consumer group.

The programs of a group share the results. The server keeps the group's position.
"""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Self, cast

import redis

from producer.streams.entries import (
    BEGINNING,
    BLOCK_MS,
    Entry,
    EntryParser,
    PatientCalls,
    RawEntry,
    RecentJobs,
    report_unknown_line,
)
from producer.streams.gaps import find_gap, is_no_key, read_group_info
from producer.streams.notices import Notice, NoticeKind, OnNotice, log_notice
from shared import keys
from shared.errors import BadSetting
from shared.schemas import NAME_RULE, SortResult, is_name
from shared.server.connection import check, connect
from shared.server.error_translation import server_errors
from shared.settings import Settings, load_settings

_RECENT_JOBS = 20_000
_NO_GROUP, _GROUP_EXISTS = "NOGROUP", "BUSYGROUP"  # the first word of the server's errors
_LEAST_TAKE_OVER_S = 0.001


class ResultGroupReader:
    """Reads those results of one line that no other consumer of the group gets, and acknowledges each.

    A result is acknowledged when the loop over `follow` asks for the next one. A result that a consumer got and did not
    acknowledge is delivered again: to the same consumer when it restarts under the same name, or to another consumer of
    the group after `take_over_s`. A new group begins with new results. That is reported, because it may be new only to
    the server, which may have lost it while no consumer was running.

    Gaps, outages and duplicates are handled as in `ResultReader`. Duplicates are found among the results of this
    consumer only.

    One thread at a time may use it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        line: str,
        group: str,
        consumer: str | None = None,
        take_over_s: float = 30.0,
        on_notice: OnNotice = log_notice,
    ) -> None:
        """Store the arguments. Nothing is read yet.

        Args:
            settings: `redis_url` names the server; None means the settings of the environment.
            line: the line whose results are read.
            group: the name of the consumer group.
            consumer: this program's name, unique in the group; None means the name of the host.
            take_over_s: how long a consumer may handle a result before another one takes it over; at most a week.
            on_notice: called with each Notice; the default logs it as a warning.

        Raises:
            BadSetting: a name or `take_over_s` can't be used.
        """
        settings = settings or load_settings()
        consumer = socket.gethostname() if consumer is None else consumer
        for what, name in (("line", line), ("group", group), ("consumer", consumer)):
            if not is_name(name):
                raise BadSetting(f"{what} = {name!r}: {NAME_RULE}.")
        if not _LEAST_TAKE_OVER_S <= take_over_s <= keys.STREAM_TTL_S:
            raise BadSetting(
                f"take_over_s = {take_over_s!r}: give a number of seconds from {_LEAST_TAKE_OVER_S} to "
                f"{keys.STREAM_TTL_S:,} (a week)."
            )
        self._url = settings.redis_url
        self._client = connect(settings.redis_url)
        self._line, self._stream = line, keys.results(line)
        self._group, self._consumer = group, consumer
        self._take_over_ms = int(take_over_s * 1000)
        self._on_notice = on_notice
        self._parser = EntryParser(on_notice)
        self._jobs = RecentJobs(_RECENT_JOBS)
        self._has_own = True  # whether this consumer may have entries that it has not acknowledged
        self._take_over_at = float("-inf")
        self._is_taking_over = False
        self._is_made = self._was_made = False
        self._gap_after: bytes | None = None  # the entry before the last gap that was reported

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The group and its unacknowledged entries stay on the server."""
        self._client.close()

    def follow(self, stop: threading.Event | None = None) -> Iterator[SortResult]:
        """Yield results until `stop` is set. Waits while the server is unavailable.

        Raises:
            BadSetting, CommandRefused: as `server_errors` raises them.
        """
        stop = stop or threading.Event()
        calls = PatientCalls(self._on_notice, stop, on_outage=self._begin_again)
        self._begin_again()  # entries that an earlier loop did not acknowledge come first
        while not stop.is_set():
            for entry in calls.call(self._read) or ():
                if entry.result.job_id not in self._jobs:
                    yield entry.result
                self._jobs.add(entry.result.job_id)
                calls.call(functools.partial(self._acknowledge, entry.entry_id))

    # Entries are read one at a time. An entry that waited here would count as being handled, and might be taken over.

    def _read(self) -> list[Entry]:
        with server_errors(self._url):
            try:
                self._make_group()
                raw = self._own_entry() or self._taken_over() or self._new_entry()
            except redis.exceptions.ResponseError as error:
                if not (str(error).startswith(_NO_GROUP) or is_no_key(error)):
                    raise
                self._begin_again()
                return []
        entries = list(self._parser.parse(self._line, [entry for entry in raw if entry[1]]))
        if raw and not entries:  # the entry is not a result, or was trimmed before it was handled
            self._acknowledge(raw[0][0])
        return entries

    def _begin_again(self) -> None:
        """Make the group again if the server has lost it, and read the unacknowledged entries first."""
        self._is_made, self._has_own = False, True

    def _make_group(self) -> None:
        """Create the group if it doesn't exist. If the server lost it, the new one begins with the oldest entry."""
        if self._is_made:
            return
        check(self._client, self._url)  # the client itself does not notice that the other side expects TLS
        begin = BEGINNING if self._was_made else "$"
        try:
            self._client.xgroup_create(self._stream, self._group, id=cast(Any, begin), mkstream=True)
        except redis.exceptions.ResponseError as error:
            if not str(error).startswith(_GROUP_EXISTS):
                raise
        else:
            if self._was_made:
                self._report(
                    NoticeKind.BEGAN_ANEW, "the server has lost the group. The stream is read again from its beginning."
                )
            else:
                self._report(
                    NoticeKind.NEW_GROUP, "this group is new. It begins with new results: older ones are not read."
                )
                report_unknown_line(self._client, self._line, self._on_notice)
        self._is_made = self._was_made = True

    def _own_entry(self) -> list[RawEntry]:
        """An entry that this consumer got earlier and has not acknowledged."""
        raw = self._next_entry(after=BEGINNING) if self._has_own else []
        self._has_own = bool(raw)
        if raw and not raw[0][1]:
            self._report(NoticeKind.TRIMMED, f"entry {raw[0][0].decode()} was trimmed before it was handled.")
        return raw

    def _taken_over(self) -> list[RawEntry]:
        """An entry that another consumer got and did not acknowledge in time."""
        if time.monotonic() < self._take_over_at:
            return []
        answer = self._client.xautoclaim(
            self._stream, self._group, self._consumer, min_idle_time=self._take_over_ms, count=1
        )
        raw: list[RawEntry] = [(entry_id, fields) for entry_id, fields in answer[1] if entry_id is not None]
        if raw and not self._is_taking_over:
            waited_s = self._take_over_ms / 1000
            text = f"takes over results that another consumer did not acknowledge within {waited_s:g} s."
            self._report(NoticeKind.TAKEN_OVER, text)
        self._is_taking_over = bool(raw)
        if not raw:
            self._take_over_at = time.monotonic() + self._take_over_ms / 2000
        return raw

    def _new_entry(self) -> list[RawEntry]:
        self._check_for_gap()
        return self._next_entry(after=b">")

    def _next_entry(self, *, after: bytes) -> list[RawEntry]:
        answer = self._client.xreadgroup(
            self._group, self._consumer, cast(Any, {self._stream: after}), count=1, block=BLOCK_MS
        )
        return cast("list[tuple[bytes, list[RawEntry]]]", answer)[0][1] if answer else []

    def _check_for_gap(self) -> None:
        """Report results that were trimmed before the group got them. The server continues with those that are left.

        The group is stored in the stream, so it can't have a position in a stream that is gone.
        """
        infos = read_group_info(self._client, self._line, self._group)
        if infos is None:
            return  # the server refuses the read that follows, and then the group is made again
        stream, group = infos
        gap = find_gap(self._line, group.at, stream, number=group.number)
        if gap is not None and gap.notice.kind is NoticeKind.TRIMMED and group.at != self._gap_after:
            self._gap_after = group.at
            self._on_notice(gap.notice)

    def _acknowledge(self, entry_id: bytes) -> None:
        with server_errors(self._url):
            self._client.xack(self._stream, self._group, entry_id)

    def _report(self, kind: NoticeKind, text: str) -> None:
        self._on_notice(Notice(kind, f"{self._stream}, group {self._group}: {text}", self._line))
