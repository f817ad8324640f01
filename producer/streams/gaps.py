"""Finds out whether a reader can continue at its position in a stream, or has missed entries.

The stream may have been trimmed beyond the position, or the server may have lost its end or all of it.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import redis

from producer.streams.entries import BEGINNING, id_before, id_parts
from producer.streams.notices import Notice, NoticeKind
from shared import keys
from shared.server.error_translation import is_wrong_type

# What the server's errors say about a stream that does not exist. The last one is Redis 7.0's answer to XREADGROUP if
# the stream is deleted while it waits.
_NO_KEY = ("no such key", "key no longer exists")


class StreamInfo(NamedTuple):
    """What the server says about a stream. The defaults are those of a stream that does not exist."""

    first: bytes | None = None  # id of the oldest entry that is left
    last_generated: bytes = BEGINNING  # id of the newest entry that was ever added
    length: int = 0
    added: int | None = 0  # number of entries ever added; None before Redis 7, which introduced it

    @property
    def trimmed(self) -> int | None:
        """Number of entries that were removed; None if the server does not know."""
        return None if self.added is None else self.added - self.length


class GroupInfo(NamedTuple):
    """How far a group has read a stream. The arguments of `find_gap`."""

    at: bytes
    number: int | None


class Gap(NamedTuple):
    """Reports entries that a reader can no longer get, and says after which entry it continues."""

    notice: Notice
    go_on_after: bytes


def read_infos(client: redis.Redis, lines: Sequence[str]) -> list[StreamInfo | None]:
    """Ask the server about the streams of these lines. None for a key that is not a stream."""
    with client.pipeline(transaction=False) as pipe:
        for line in lines:
            pipe.xinfo_stream(keys.results(line))
        return [_info(answer) for answer in pipe.execute(raise_on_error=False)]


def read_group_info(client: redis.Redis, line: str, group: str) -> tuple[StreamInfo, GroupInfo] | None:
    """Ask the server about the stream of a line and one of its groups; None if there is no such group.

    Both are asked in one transaction: if another consumer read in between, the group would seem to be ahead of the
    stream.

    Raises:
        redis.exceptions.ResponseError: there is no stream, or the key is not one.
    """
    with client.pipeline() as pipe:
        pipe.xinfo_stream(keys.results(line))
        pipe.xinfo_groups(keys.results(line))
        stream, groups = pipe.execute()
    for found in groups:
        if found["name"] == group.encode():  # other programs may name theirs in any bytes
            return _parsed(stream), GroupInfo(found["last-delivered-id"], found.get("entries-read"))
    return None


def is_no_key(error: Exception) -> bool:
    """Whether a command about a stream was refused because the stream does not exist."""
    return any(text in str(error) for text in _NO_KEY)


def _info(answer: Any) -> StreamInfo | None:
    if is_wrong_type(answer):
        return None
    if isinstance(answer, Exception):
        if is_no_key(answer):
            return StreamInfo()
        raise answer
    return _parsed(answer)


def _parsed(answer: Any) -> StreamInfo:
    first = answer["first-entry"]
    last = answer["last-generated-id"]
    return StreamInfo(
        first=first and first[0],
        last_generated=last if isinstance(last, bytes) else last.encode(),
        length=answer["length"],
        added=answer.get("entries-added"),
    )


def find_gap(
    line: str, at: bytes, info: StreamInfo, *, number: int | None = None, recent: Container[bytes] = ()
) -> Gap | None:
    """Find out what a reader that has read up to the entry `at` has missed; None if it can continue there.

    Args:
        line: the line of the stream.
        at: the id of the last entry that was read.
        info: the state of the stream now.
        number: how many entries had been added to the stream up to `at`, if known.
        recent: the latest ids up to `at`. If the newest id of the stream is one of them, the stream has lost its end;
            if not, it is a new stream.
    """
    if id_parts(at) == id_parts(BEGINNING):
        return None
    is_behind = id_parts(info.last_generated) < id_parts(at)
    if is_behind and info.first is not None and info.last_generated in recent:
        text = "the server has lost the latest results. Reading continues with new results."
        return _gap(NoticeKind.LOST_END, line, text, info.last_generated)
    if is_behind:
        return _began_anew(line)
    if info.last_generated == at or (info.first is not None and id_parts(info.first) <= id_parts(at)):
        return None
    if info.trimmed == 0:  # nothing was trimmed, so `at` was in another stream
        return _began_anew(line)
    if number is not None and info.trimmed == number:  # only entries that were read
        return None
    return _trimmed(line, at, info.last_generated if info.first is None else id_before(info.first))


def find_miscount(
    line: str, at: bytes, info: StreamInfo, *, number: int | None, recent: Sequence[bytes]
) -> Notice | None:
    """Find out what a reader has missed that has read all of the stream, up to the entry `at`. Arguments as `find_gap`.

    This finds gaps that came and went between two checks, e.g. if a stream was deleted, and results were added since.
    """
    if number is None or info.added is None or info.added == number:
        return None
    if info.added > number:
        text = f"the stream was trimmed faster than it was read: {info.added - number:,} results are missing."
        return _gap(NoticeKind.TRIMMED, line, text, at).notice
    if info.trimmed == 0 and info.first is not None and recent and id_parts(recent[0]) < id_parts(info.first):
        text = "the stream was started again. Results that were added before may be missing."
        return _gap(NoticeKind.BEGAN_ANEW, line, text, at).notice
    return _gap(NoticeKind.LOST_END, line, "the server has lost results that were read before.", at).notice


def _began_anew(line: str) -> Gap:
    text = (
        "the results read so far are no longer on the server: they were lost or expired. The stream is read again from "
        "its beginning."
    )
    return _gap(NoticeKind.BEGAN_ANEW, line, text, BEGINNING)


def _trimmed(line: str, at: bytes, before_first: bytes) -> Gap:
    text = (
        f"the stream was trimmed beyond entry {at.decode()}, the last one read, so results are missing. To keep more, "
        "raise results_maxlen of the workers."
    )
    return _gap(NoticeKind.TRIMMED, line, text, before_first)


def _gap(kind: NoticeKind, line: str, text: str, go_on_after: bytes) -> Gap:
    return Gap(Notice(kind, f"{keys.results(line)}: {text}", line), go_on_after)
