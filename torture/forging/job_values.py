"""The contents of forged jobs, by name: data, fields, images and ids. The forgeries put them into jobs."""

from __future__ import annotations

import os
import pickle
import random
import time
import zlib
from collections.abc import Callable, Mapping, Sequence

from shared import keys
from shared.jobs import MAX_ATTEMPTS_FIELD, SORT_IMAGE
from torture.forging.forger import Forger, packed

# jobs that must be failed unread ────────────────────────────────────────────────────────────────────


class _Exit:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return os._exit, (66,)


_PICKLE = pickle.dumps(_Exit())
REFUSED_DATA: Mapping[str, Callable[[], bytes]] = {
    "none": lambda: b"",
    "not zlib": lambda: b"\x00\xff junk",
    "cut off": lambda: packed([SORT_IMAGE, None, [{}], {}])[:-6],
    "pickle": lambda: _PICKLE,
    "packed pickle": lambda: zlib.compress(_PICKLE),
    "not JSON": lambda: zlib.compress(b'["worker.tasks.sort_image", null, [{'),
    "not UTF-8": lambda: zlib.compress(b'["\xff\xfe"]'),
    "no call": lambda: packed({"function": SORT_IMAGE}),
    "another function": lambda: packed(["os._exit", None, [66], {}]),
    "a method": lambda: packed([SORT_IMAGE, "os", [66], {}]),
    "no argument": lambda: packed([SORT_IMAGE, None, [], {}]),
    "no ImageJob": lambda: packed([SORT_IMAGE, None, [{"job_id": 1}], {}]),
    "keywords": lambda: packed([SORT_IMAGE, None, [], {"job": {}}]),
    "10 MB": lambda: random.Random(1).randbytes(10_000_000),  # noqa: S311 - so that it does not compress
    "50 MB, packed": lambda: zlib.compress(bytes(50_000_000)),
    "deep": lambda: zlib.compress(b"[" * 90_000),
}
# Fields of the ImageJob.
REFUSED_CALLS: Mapping[str, Callable[[Forger], dict[str, object]]] = {
    "another job's id": lambda forger: {"job_id": forger.held().job_id},
    "another job's image": lambda forger: {"image_key": keys.image(forger.held().job_id)},
    "any key as image": lambda forger: {"image_key": keys.LINES},
    "a line that is no name": lambda forger: {"line": "a:b\n"},
    "a time that is no number": lambda forger: {"captured_at": float("inf")},
    "a malformed digest": lambda forger: {"sha256": "junk"},
}
# Fields of the job's hash.
REFUSED_FIELDS: Mapping[str, str | bytes] = {
    "success_callback_name": "os._exit",
    "failure_callback_name": b"\xff",
    "stopped_callback_name": "os.abort",
    "dependency_ids": '["a"]',
    "repeats_left": "7",
    "webhooks": "w" * 100_000,
    "rate_limit_key": "key",
}
ODD_IDS = (b"\xff\xfe", b"a:b:", b":", b"\x00", b"x\n2026-01-01 ERROR forged ", b"%s%d", b" ", b"*[a-z]", b"i" * 10_000)


# jobs that have a result ────────────────────────────────────────────────────────────────────────────

# Fields of the ImageJob: times that can't be true.
REJECTED_CALLS: Mapping[str, Callable[[], dict[str, object]]] = {
    "captured in 1970": lambda: {"captured_at": 0.0},
    "captured in the year 33658": lambda: {"captured_at": 1e12},
    "captured in an hour": lambda: {"captured_at": time.time() + 3600},
    "a deadline before the capture": lambda: {"deadline_at": time.time() - 60},
    "a deadline in 30 years": lambda: {"deadline_at": time.time() + 1e9},
}
REJECTED_IMAGES: Mapping[str, Callable[[], bytes | Sequence[bytes] | None]] = {
    "missing": lambda: None,
    "of another type": lambda: [b"a", b"list"],
    "no image": lambda: b"junk",
    "too long": lambda: bytes(21_000_000),
}
# Fields of the job's hash. The image is sorted all the same.
HARMLESS_FIELDS: Mapping[str, tuple[str | bytes, ...]] = {
    "retries_left": ("1e400", "-7", "9" * 40, b"\xff", ""),
    "result_ttl": ("1e400", "-7", "9" * 40, b"\xff", "soon"),
    "failure_ttl": ("1e400", "-7", "9" * 40, b"\xff", "soon"),
    "timeout": ("nan", "-1", b"\xff"),
    "enqueued_at": ("9999-12-31T23:59:59.999999Z", "2026-13-01T00:00:00Z", b"\xff", "2" * 1_000_000),
    "created_at": (b"\xff", "never"),
    "status": (b"\xff", "STARTED", "queued\n"),
    "worker_name": (b"\xff", "nobody"),
    "description": ("d" * 1_000_000, b"\xff"),
    MAX_ATTEMPTS_FIELD: ("0", "-1", "1e3", "9" * 40, b"\xff"),
    keys.CRASHES: ("-1", "1e3", "9" * 40, b"\xff"),
    keys.LOSSES: ("-1", "1e3", "9" * 40, b"\xff"),
    keys.SUSPECT: ("", b"\xff", "s" * 1_000_000),
}
