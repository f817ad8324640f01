"""What one camera sends, and how. Imported by every command of the producer, so this module imports nothing slow."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TooOld(StrEnum):
    """What happens to a frame that was captured more than the camera's `max_age_s` ago."""

    SKIP = "skip"  # it is not sent
    EXPIRE = "expire"  # it is sent with a deadline that is past, so that it is answered `expired`


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraOptions:
    """What one camera sends. `rate_hz` 0 means as fast as possible; `count` None means without end."""

    line: str
    camera: str
    rate_hz: float = 0.0
    deadline_ms: float | None = None
    count: int | None = None
    queue: str = "live"
    encoder_per_frame: int | None = None
    max_age_s: float | None = None
    too_old: TooOld = TooOld.SKIP
