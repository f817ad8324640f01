"""What is fuzzed: the decoder of images, and what a worker reads of a job before it believes it.

A target gets bytes. It returns if they were handled as they should be: used, or refused by BadImage or BadJob. Whatever
else it raises is a finding.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared import keys
from shared.errors import BadImage, BadJob
from shared.images.decode_cost import is_costly
from shared.images.decoding import decode_image
from shared.jobs import SORT_IMAGE
from torture.corpus.pictures import whole_files
from worker.rq.job_fields import DESCRIBED, parse_claimed
from worker.steps.admit import admit
from worker.steps.decide import Refused, decide

SIZE_PX = 32
# Small limits, so that an input that comes near them is found out quickly.
MAX_PX = 1_000_000
MAX_DECODE_BYTES = 50_000_000
MAX_DECODE_S = 1.0
REASONS = frozenset({"empty", "format", "too_large_bytes", "too_large_px", "truncated", "corrupt", "unsupported"})
# A job's own field of the hash is the fourth of the fields that a worker reads.
_DATA_FIELD = 3
_STARTED_AT = 1_700_000_000.0
_JOB_ID = "83b0a137e2074537bd0a106c8ac9359c"
_MAX_ATTEMPTS = 3


class Wrong(Exception):
    """A target did not raise, but its answer is wrong."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that is fuzzed."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    tokens: Sequence[bytes]
    max_s: float  # of processor time, for one input
    max_bytes: int  # by which the process may grow


def run_decoder(data: bytes) -> None:
    """Decode the bytes as an image."""
    costly = is_costly(data, max_decode_s=MAX_DECODE_S)
    try:
        pixels = decode_image(
            data, size_px=SIZE_PX, max_px=MAX_PX, max_decode_bytes=MAX_DECODE_BYTES, max_decode_s=MAX_DECODE_S
        )
    except BadImage as error:
        if error.reason not in REASONS:
            raise Wrong(f"unknown reason {error.reason!r}") from error
        if not str(error).isprintable():
            raise Wrong(f"the message can't be printed: {str(error)!r}") from error
        return
    if pixels.shape != (SIZE_PX, SIZE_PX, 3) or pixels.dtype != np.uint8 or not isinstance(costly, bool):
        raise Wrong(f"pixels of shape {pixels.shape} and type {pixels.dtype}")


def run_job(data: bytes) -> None:
    """Read the bytes as a job: the fields of its hash, one a line, and the data of its call."""
    claimed = parse_claimed(_described(data), started_at=_STARTED_AT)
    claimed.attempt(max_attempts=_MAX_ATTEMPTS)
    try:
        admitted = admit(claimed, max_attempts=_MAX_ATTEMPTS)
    except BadJob as error:
        finished = decide(Refused(claimed=claimed, error=error))
        if finished.result is not None:
            raise Wrong("a refused job has a result") from error
        return
    if admitted.job.job_id != claimed.lease.job_id or admitted.job.image_key != keys.image(admitted.job.job_id):
        raise Wrong(f"admitted as {admitted.job.job_id!r}")
    _ = (admitted.captured_at, admitted.deadline_at, admitted.queue_ms)
    admitted.job.json_bytes()


def _described(data: bytes) -> list[bytes | None]:
    """The fields as `describe()` in common.lua returns them. An empty line is an absent field.

    The first byte says whether the call is compressed here (`z`), so that mutations reach what reads JSON, or is taken
    as it is, so that they reach what unpacks it.
    """
    *lines, call = data[1:].split(b"\n", DESCRIBED - 1)
    fields: list[bytes | None] = [line or None for line in lines[: DESCRIBED - 1]]
    fields += [None] * (DESCRIBED - 1 - len(fields))
    fields.insert(_DATA_FIELD, zlib.compress(call) if data[:1] == b"z" else call)
    return fields


def _job_seeds() -> list[bytes]:
    job = {
        "job_id": _JOB_ID,
        "line": "line-1",
        "camera": "camera-1",
        "frame_id": 7,
        "encoder_count": 7000,
        "captured_at": _STARTED_AT,
        "deadline_at": None,
        "queue": "live",
        "image_key": keys.image(_JOB_ID),
        "sha256": "0" * 64,
        "content_type": "image/jpeg",
        "schema_version": 1,
    }
    variants = [
        job,
        job | {"frame_id": "belt/7.jpg", "deadline_at": _STARTED_AT + 0.2},
        job | {"more": [1]},
    ]
    fields = [
        *(b"live", _JOB_ID.encode(), b"e1", b"2023-11-14T22:13:20.000000Z", b"2", b"500", b"31536000", b"", b"3"),
        *(b"1", b"0", b"lost", b"0.25", b"line-1", b"30000"),
    ]
    calls = [json.dumps([SORT_IMAGE, None, [each], {}]).encode() for each in variants]
    packed = [b"z" + b"\n".join([*fields, call]) for call in calls]
    return packed + [b"r" + b"\n".join([*fields, zlib.compress(call)]) for call in calls]


_IMAGE_TOKENS = (
    *(
        b"\xff\xd8",
        b"\xff\xd9",
        b"\xff\xda",
        b"\xff\xc0",
        b"\xff\xc2",
        b"\xff\xc4",
        b"\xff\xe1",
        b"\xff\xe2",
        b"\xff\xdd",
    ),
    *(b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0", b"8BIM", b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"zTXt"),
    *(b"acTL", b"fcTL", b"fdAT", b"sBIT", b"IEND", b"RIFF", b"WEBP", b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANMF"),
    *(b"BM", b"II*\0", b"MM\0*", b"II+\0", b"\0\1", b"\1\0", b"\xff" * 4, bytes(4), bytes(16)),
)
_JOB_TOKENS = (
    *(b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 40, b'"', b"[", b"]", b"{", b"}", b",\\u0000"),
    *(b'"\\ud800"', b"\xff", b"\xed\xa0\x80", b"\n", b"\0", b"[" * 3000, b'{"a":' * 3000, b"worker.tasks.sort_image"),
    *(b"os.system", b"job_id", b"image_key", b"captured_at", b"deadline_at", b"frame_id", b"-", b"+1", b" 1", b"1_0"),
    b'"schema_version": 2',  # refused: only the version that is known is read
)

TARGETS: Mapping[str, Target] = {
    "decoder": Target(
        run_decoder,
        lambda: list(whole_files().values()),
        _IMAGE_TOKENS,
        max_s=2 * MAX_DECODE_S,
        max_bytes=3 * MAX_DECODE_BYTES,
    ),
    "job": Target(run_job, _job_seeds, _JOB_TOKENS, max_s=0.5, max_bytes=50_000_000),
}
