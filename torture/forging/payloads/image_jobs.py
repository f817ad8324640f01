"""ImageJobs with values that can't be true, or that look dangerous. By field; each value is one forged job."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence

from shared import keys
from torture.forging.payloads.payload import REFUSED, REJECTED, SORTED, Outcomes, Payload, by_value

_HUGE = 10**4_000  # Python does not read more digits

# The job fails unread.
_REFUSED: Mapping[str, Sequence[object]] = {
    "line": (
        *("", "a:b\n", "a\nb", "line-1\n", "../x", "*", "z\u0435il", 'a{b="c"}', "\x1b[31m", "l" * 65),
        *(5, None, True, ["line-1"], {"a": 1}),
    ),
    "camera": ("", "a\nb", "c" * 65, 5, None, ["c"]),
    "frame_id": ("f" * 257, "\ud800", 1.5, [1], {"a": 1}, math.nan, math.inf),
    "encoder_count": ("many", 1.5, [1], {"a": 1}, math.nan, -math.inf),
    "captured_at": ("noon", None, [1], {"a": 1}, math.nan, math.inf, -math.inf),
    "deadline_at": ("soon", [1], {"a": 1}, math.nan, math.inf, -math.inf),
    "job_id": ("other", "", "a:b", "j" * 65, 7, None),
    "image_key": ("", keys.LINES, "rq:queue:live", keys.image("other"), "i" * 50_000, 7, None),
    "sha256": ("", "junk", "G" * 64, "A" * 64, "0" * 63, 7, None),
    "queue": ("", "a:b", "live\n", 7, None),
    "content_type": (7, None, ["image/jpeg"]),
    "schema_version": (2, 0, -1, 10**30, "two", 1.5, None, [1]),
}
# The image is not sorted, and the result says why.
_REJECTED: Mapping[str, Sequence[object]] = {
    "captured_at": (0.0, 1.0, -1.0, 1e12, 1e308, -1e308, 253_402_300_799.0, 5e-324),
    "deadline_at": (0.0, -1.0, 1e308, -1e308, 253_402_300_800.0, 5e-324),
    "sha256": ("0" * 64, "f" * 64),
}
# Times that depend on when the job is made.
_REJECTED_TIMES: Mapping[str, tuple[str, Callable[[], float]]] = {
    "captured in an hour": ("captured_at", lambda: time.time() + 3600),
    "a deadline before the capture": ("deadline_at", lambda: time.time() - 60),
    "a deadline in 30 years": ("deadline_at", lambda: time.time() + 1e9),
}
# The image is sorted all the same.
_SORTED: Mapping[str, Sequence[object]] = {
    "frame_id": ("", "\0", "=1+1", "\x1b[2J\n", "\u202e", "f" * 256, _HUGE, -_HUGE),
    "encoder_count": (-1, 2**63, _HUGE, -_HUGE),
    "queue": ("nowhere",),
    "content_type": ("", "text/html\n", "\x1b[31m", "x" * 50_000),
    "invented": (1, {"deep": [[[1]]]}, "i" * 50_000),
    "__class__": ("os.system",),
    "success_callback": ("os._exit",),
}


def _replacing(outcomes: Outcomes, field: str, value: object) -> Payload:
    return Payload(outcomes=outcomes, call=lambda: {field: value})


def _timed(field: str, at: Callable[[], float]) -> Payload:
    return Payload(outcomes=REJECTED, call=lambda: {field: at()})


def _table(outcomes: Outcomes, fields: Mapping[str, Sequence[object]]) -> dict[str, Payload]:
    made: dict[str, Payload] = {}
    for field, values in fields.items():
        made |= by_value(field, values, functools.partial(_replacing, outcomes, field))
    return made


IMAGE_JOBS: Mapping[str, Payload] = {
    **_table(REFUSED, _REFUSED),
    **_table(REJECTED, _REJECTED),
    **{name: _timed(field, at) for name, (field, at) in _REJECTED_TIMES.items()},
    **_table(SORTED, _SORTED),
}
