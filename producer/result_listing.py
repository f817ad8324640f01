"""Prints the latest results and, if asked to, new ones as they come. Called by `sortline results`."""

from __future__ import annotations

import threading
from contextlib import closing

from producer import display
from producer.result_filter import ResultFilter
from producer.signals import ended_by_signals
from producer.streams.notices import Notice, NoticeKind
from producer.streams.reader import ResultReader
from shared.errors import SortlineError
from shared.messages import note
from shared.settings import Settings

# A name that none of so many latest results has may be misspelled.
_LATEST = 200


def list_results(
    settings: Settings, *, line: str | None, wanted: ResultFilter, count: int, follow: bool, as_json: bool, as_csv: bool
) -> None:
    """Print results until there are no more or, with `follow`, until Ctrl-C.

    Args:
        settings: name the server.
        line: only this line; None: all lines.
        wanted: which results are printed.
        count: how many of the latest ones.
        follow: go on with new results. Waits while the server is unavailable.
        as_json, as_csv: print them as JSON or CSV; otherwise as a table.

    Raises:
        BadSetting: `line` can't be the name of a line.
        RedisUnavailable, BadSetting, CommandRefused: as `ResultReader.last` and `ResultReader.follow`.
    """
    noticed: set[NoticeKind] = set()

    def on_notice(notice: Notice) -> None:
        noticed.add(notice.kind)
        note(notice.text)

    only = wanted if wanted.is_set else None
    reader = ResultReader(settings, line=line, only=only, drop_duplicates=False, on_notice=on_notice)
    with closing(reader), ended_by_signals():
        known = [] if follow else reader.last(count)
        if not known and count and not follow and NoticeKind.UNKNOWN_LINE not in noticed:
            note(f"no results{f' of line {line}' if line else ''}{wanted.described}{_yet(wanted)}.")
        if not known and (hint := describe_unknown_lanes(settings, line=line, lanes=wanted.lanes)):
            note(hint)
        show = display.result_printer(known, as_json=as_json, as_csv=as_csv)
        try:
            for result in reader.follow(threading.Event(), latest=count) if follow else known:
                show(result)
        finally:
            if reader.skipped > 1:  # one was reported when it was skipped
                note(f"{reader.skipped:,} entries were skipped: they are not results that this version can read.")


def _yet(wanted: ResultFilter) -> str:
    return "" if wanted.is_set else " yet"


def describe_unknown_lanes(settings: Settings, *, line: str | None, lanes: frozenset[str]) -> str | None:
    """Name those of the lanes that the latest results don't have, and the lanes that they have.

    None if they have all of them, and if there are no results or the server doesn't answer or refuses.
    """
    if not lanes:
        return None
    try:
        with ResultReader(settings, line=line, drop_duplicates=False, on_notice=lambda notice: None) as reader:
            seen = sorted({result.lane for result in reader.last(_LATEST)})
    except SortlineError:  # this is only a hint; whoever reads the results reports it
        return None
    unseen = ", ".join(sorted(repr(lane) for lane in lanes - set(seen)))
    return (
        f"no recent result has lane {unseen}; lanes of recent results: {', '.join(seen)}." if seen and unseen else None
    )
