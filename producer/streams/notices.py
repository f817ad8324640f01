"""What a reader of result streams reports besides the results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

log = logging.getLogger("sortline.results")


class NoticeKind(StrEnum):
    """What happened to a stream, or to the connection."""

    UNAVAILABLE = "unavailable"  # the server can't be reached, or can't serve for now; the reader waits
    AVAILABLE = "available"  # the server answers again
    BEGAN_ANEW = "began_anew"  # the entries read so far are gone: the stream is read again from its beginning
    TRIMMED = "trimmed"  # the stream was trimmed beyond the reader's position: results that it has not read are gone
    LOST_END = "lost_end"  # the server lost its latest results, which were read before
    UNREADABLE = "unreadable"  # a key that is not a stream, or an entry that is not a SortResult: it is skipped
    POSITION = "position"  # the position file is empty or can't be written
    NEW_GROUP = "new_group"  # the server did not know the group: it begins with new results
    UNKNOWN_LINE = "unknown_line"  # the line has no results while others have: its name may be misspelled
    TAKEN_OVER = "taken_over"  # this consumer takes over results that another one did not acknowledge in time


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that happened: `kind` for programs, `text` for people, `line` if it concerns one line."""

    kind: NoticeKind
    text: str
    line: str | None = None

    def __str__(self) -> str:
        return self.text


OnNotice = Callable[[Notice], None]


def log_notice(notice: Notice) -> None:
    """Log a notice as a warning: the default of the readers."""
    log.warning("%s", notice)
