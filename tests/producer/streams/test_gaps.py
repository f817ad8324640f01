"""How a stream is judged by what the server says about it."""

from __future__ import annotations

import pytest

from producer.streams.gaps import StreamInfo, find_gap, find_miscount
from producer.streams.notices import NoticeKind


@pytest.mark.parametrize(
    ("info", "number", "expected"),
    [
        (StreamInfo(b"1-0", b"9-0", 9, 9), None, None),
        (StreamInfo(b"5-0", b"9-0", 5, 9), None, None),  # the entry read last is the oldest that is left
        (StreamInfo(b"5-1", b"9-0", 4, 9), None, (NoticeKind.TRIMMED, b"5-0")),
        (StreamInfo(b"6-0", b"9-0", 4, 9), 5, None),  # only entries that were read are gone
        (StreamInfo(b"7-0", b"9-0", 3, 9), 5, (NoticeKind.TRIMMED, b"6-18446744073709551615")),
        (StreamInfo(b"6-0", b"9-0", 4, None), None, (NoticeKind.TRIMMED, b"5-18446744073709551615")),  # Redis 6.2
        (StreamInfo(b"6-0", b"9-0", 4, 4), None, (NoticeKind.BEGAN_ANEW, b"0")),
        (StreamInfo(b"1-0", b"4-0", 4, 4), None, (NoticeKind.LOST_END, b"4-0")),
        (StreamInfo(b"1-0", b"2-0", 2, 2), None, (NoticeKind.BEGAN_ANEW, b"0")),
        (StreamInfo(None, b"5-0", 0, 5), None, None),
        (StreamInfo(None, b"9-0", 0, 9), None, (NoticeKind.TRIMMED, b"9-0")),
        (StreamInfo(), None, (NoticeKind.BEGAN_ANEW, b"0")),
    ],
)
def test_a_reader_at_entry_5(info: StreamInfo, number: int | None, expected: tuple[NoticeKind, bytes] | None) -> None:
    gap = find_gap("a", b"5-0", info, number=number, recent=[b"3-0", b"4-0", b"5-0"])
    assert (gap and (gap.notice.kind, gap.go_on_after)) == expected


def test_a_reader_at_the_beginning_misses_nothing() -> None:
    assert find_gap("a", b"0", StreamInfo(b"6-0", b"9-0", 4, 9)) is None


@pytest.mark.parametrize(
    ("info", "number", "expected"),
    [
        (StreamInfo(b"1-0", b"5-0", 5, 5), 5, None),
        (StreamInfo(b"1-0", b"5-0", 5, 5), None, None),
        (StreamInfo(b"1-0", b"5-0", 5, None), 5, None),  # Redis 6.2
        (StreamInfo(b"4-0", b"5-0", 2, 9), 5, NoticeKind.TRIMMED),
        (StreamInfo(b"4-0", b"5-0", 2, 2), 5, NoticeKind.BEGAN_ANEW),
        (StreamInfo(b"3-0", b"5-0", 3, 3), 5, NoticeKind.LOST_END),  # it still has the oldest entry that was read
    ],
)
def test_a_reader_that_has_read_all_up_to_entry_5(
    info: StreamInfo, number: int | None, expected: NoticeKind | None
) -> None:
    notice = find_miscount("a", b"5-0", info, number=number, recent=[b"3-0", b"4-0", b"5-0"])
    assert (notice and notice.kind) == expected
