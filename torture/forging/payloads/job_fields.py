"""Nonsense in the fields of a job's hash, RQ's and ours, and under its image's key. Each value is one forged job."""

from __future__ import annotations

import functools
import hashlib
import pickle
import time
from collections.abc import Callable, Mapping, Sequence

from shared import keys
from shared.jobs import BYTES_FIELD, CLOCK_OFFSET_FIELD, DEADLINE_FIELD, LINE_FIELD, MAX_ATTEMPTS_FIELD
from torture.forging.payloads.payload import EXPIRED, REFUSED, REJECTED, SORTED, TRIPWIRE, Outcomes, Payload, by_value

_Value = str | bytes
_LONG = "9" * 40
_LINE_BREAK = "\x1b[31mos.system\n2026-01-01T00:00:00Z ERROR forged: line"

# The job carries something that a worker does not run: it fails unread.
_REFUSED: Mapping[str, Sequence[_Value]] = {
    "success_callback_name": ("os._exit", f"{TRIPWIRE}.trip", _LINE_BREAK, "x" * 5_000_000),
    "failure_callback_name": ("os.abort", f"{TRIPWIRE}.trip", b"\xff"),
    "stopped_callback_name": ("os.abort", f"{TRIPWIRE}.trip", "0"),
    "dependency_ids": ('["a"]', "a", b"\xff"),
    "repeats_left": ("7", "-1", "x"),
    "webhooks": ('[{"url": "http://127.0.0.1:9/"}]', "w" * 100_000),
    "rate_limit_key": ("key", b"\xff"),
}
# The image is sorted all the same.
_SORTED: Mapping[str, Sequence[_Value]] = {
    "retries_left": ("1e400", "1e3", "1.5", "-7", "1000000000", _LONG, b"\xff", "", "x"),
    "retry_intervals": ("[", "[-1]", '["x"]', b"\xff"),
    "result_ttl": ("1e400", "-7", "9999999999", _LONG, b"\xff", "soon"),
    "failure_ttl": ("1e400", "-7", "0", _LONG, b"\xff", "soon", "nan"),
    "ttl": ("-1", "0", "x", _LONG),
    "timeout": ("nan", "-1", "0", _LONG, b"\xff"),
    "enqueued_at": (
        *("9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
        *("2026-13-01T00:00:00Z", "20260101", "", b"\xff", "2" * 1_000_000),
    ),
    "created_at": ("never", b"\xff", "c" * 1_000_000),
    "started_at": ("never", b"\xff", "9999-12-31T23:59:59Z"),
    "ended_at": ("never", b"\xff"),
    "last_heartbeat": ("never", b"\xff"),
    "status": (b"\xff", "STARTED", "queued\n", "", "deferred", "scheduled", "canceled", "stopped", "started"),
    "origin": ("nowhere", "", b"\xff", "a:b"),
    "worker_name": ("nobody", b"\xff", "w" * 100_000),
    "description": ("d" * 1_000_000, b"\xff", _LINE_BREAK),
    "meta": ("{", "[" * 90_000, b"\xff\xfe", pickle.dumps({"a": 1}), "m" * 1_000_000),
    "result": (pickle.dumps(1), b"\xff"),
    "exc_info": ("e" * 1_000_000, b"\xff"),
    "serializer": ("pickle", "rq.serializers.DefaultSerializer"),
    "group_id": ("group", "*", b"\xff"),
    "parent_id": ("parent", b"\xff"),
    "allow_dependency_failures": ("1",),
    "enqueue_at_front": ("1", b"\xff"),
    "repeat_intervals": ("[0]", "["),
    "success_callback_timeout": ("-1", "x"),
    MAX_ATTEMPTS_FIELD: ("0", "-1", "1e3", _LONG, b"\xff", "nan"),
    DEADLINE_FIELD: ("nan", "inf", "1e400", "1e308", _LONG, b"\xff", "soon", ""),
    CLOCK_OFFSET_FIELD: ("nan", "inf", "-inf", "1e400", "1e308", "-1e308", _LONG, b"\xff", "early", ""),
    LINE_FIELD: ("", "nowhere", b"\xff", "a:b\n", "l" * 1_000_000),
    BYTES_FIELD: ("-1", "0", "1e15", "9999999999", _LONG, b"\xff", "nan", "many"),
    keys.CRASHES: ("-1", "2", "3", "1000", "1e3", _LONG, b"\xff"),
    keys.LOSSES: ("-1", "2", "1000", "1e3", _LONG, b"\xff"),
    keys.SUSPECT: ("", "lost", b"\xff", "s" * 1_000_000),
    keys.SET_APART: ("", "live:x", ":", b"\xff:\xff", "nowhere:1", "s" * 1_000_000),
    keys.RECOVERED: ("", "1", "x", b"\xff"),
}
# The deadline that the scripts read has passed, though the ImageJob has a later one: no model sees the image.
_PASSED_DEADLINES = ("-inf", "-1e308", "-1", "0", "1")
# Something other than an image under its key, with the digest that goes with it.
_IMAGES: Mapping[str, Callable[[], bytes | Sequence[bytes] | None]] = {
    "no image": lambda: None,
    "an image key with a list": lambda: [b"a", b"list"],
    "an image without bytes": lambda: b"",
    "an image that is a text": lambda: b"junk",
    "an image that is a pickle": lambda: pickle.dumps({"a": 1}),
    "an image of 21 MB": lambda: bytes(21_000_000),
}


def _with_field(outcomes: Outcomes, field: str, value: _Value) -> Payload:
    return Payload(outcomes=outcomes, fields={field: value})


def _with_image(make: Callable[[], bytes | Sequence[bytes] | None]) -> Payload:
    image = make()
    digest = hashlib.sha256(image if isinstance(image, bytes) else b"").hexdigest()
    return Payload(outcomes=REJECTED, image=make, call=lambda: {"sha256": digest})


def _table(outcomes: Outcomes, fields: Mapping[str, Sequence[_Value]]) -> dict[str, Payload]:
    made: dict[str, Payload] = {}
    for field, values in fields.items():
        made |= by_value(f"field {field}", values, functools.partial(_with_field, outcomes, field))
    return made


def _past_deadline(value: _Value) -> Payload:
    return Payload(outcomes=EXPIRED, fields={DEADLINE_FIELD: value}, call=lambda: {"deadline_at": time.time() + 60})


JOB_FIELDS: Mapping[str, Payload] = {
    **_table(REFUSED, _REFUSED),
    **_table(SORTED, _SORTED),
    **by_value("a deadline that has passed", _PASSED_DEADLINES, _past_deadline),
    **{name: _with_image(make) for name, make in _IMAGES.items()},
}
