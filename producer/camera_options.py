"""What one camera sends, and how. Imported by every command of the producer, so this module imports nothing slow."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TooOld(StrEnum):
    """What happens to a frame that was captured more than the camera's `max_age_s` ago."""

    SKIP = "skip"  # it is not sent
    EXPIRE = "expire"  # it is sent with a deadline that is past, so that it is answered `expired`


class WhenFull(StrEnum):
    """What happens to a frame that the queue refuses because it is full."""

    DROP = "drop"  # it is dropped and counted, and the camera goes on with the next frame
    BLOCK = "block"  # the camera keeps it, waits and sends it again; what the belt carries past meanwhile is missed


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraOptions:
    """What one camera sends. `rate_hz` 0 means as fast as possible; `count` None means without end.

    `deadline_source` says where the deadline comes from; the camera logs it at its start.
    """

    line: str
    camera: str
    rate_hz: float = 0.0
    deadline_ms: float | None = None
    deadline_source: str = ""
    count: int | None = None
    queue: str = "live"
    encoder_per_frame: int | None = None
    max_age_s: float | None = None
    too_old: TooOld = TooOld.SKIP
    when_full: WhenFull = WhenFull.DROP
