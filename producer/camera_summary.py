"""What became of a camera's frames: the counts, in its summary and its metrics. Used by producer/camera.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from producer.metrics import REFUSED, SUBMITTED, SubmitOutcome, start_at_zero
from shared.errors import Bound


@dataclass(frozen=True, slots=True)
class CameraSummary:
    """What became of the `frames` that a camera took from its source. Frames that it `missed` are not among them.

    `refused` has the number of frames that the queue refused and the camera dropped, for each reason (`Bound`);
    `refused_full` is their sum. `stalled_s` is the time in seconds for which it could not send because the server was
    unavailable, `blocked_s` the time for which it waited for a full queue (`--when-full block`).
    """

    line: str
    camera: str
    frames: int
    accepted: int
    refused_full: int
    rejected: int
    unsent: int
    too_old: int
    missed: int
    stalled_s: float
    seconds: float
    accepted_hz: float
    blocked_s: float = 0.0
    refused: Mapping[str, int] = field(default_factory=dict)


class CameraCounts:
    """Counts the frames of one camera."""

    def __init__(self, line: str, camera: str) -> None:
        self._line = line
        self._camera = camera
        self._outcomes: Counter[SubmitOutcome] = Counter()
        self._refused: Counter[Bound] = Counter()
        self.taken = 0

    def start(self) -> None:
        """Show the metrics of the line."""
        start_at_zero(self._line)

    @property
    def missed(self) -> int:
        """Frames that were missed so far."""
        return self._outcomes[SubmitOutcome.MISSED]

    def add(self, outcome: SubmitOutcome, frames: int) -> None:
        """Count frames, except refused ones."""
        if frames:
            self._outcomes[outcome] += frames
            SUBMITTED.labels(self._line, outcome.value).inc(frames)

    def add_refused(self, bound: Bound, frames: int) -> None:
        """Count frames that are dropped because the queue refused them."""
        self.add(SubmitOutcome.REFUSED_FULL, frames)
        if frames:
            self._refused[bound] += frames
            REFUSED.labels(self._line, bound.value).inc(frames)

    def summary(self, *, seconds: float, stalled_s: float, blocked_s: float) -> CameraSummary:
        """The counts so far. The arguments are times in seconds: of the run, and as `CameraSummary` explains."""
        accepted = self._outcomes[SubmitOutcome.ACCEPTED]
        return CameraSummary(
            line=self._line,
            camera=self._camera,
            frames=self.taken,
            accepted=accepted,
            refused_full=self._outcomes[SubmitOutcome.REFUSED_FULL],
            rejected=self._outcomes[SubmitOutcome.REJECTED],
            unsent=self._outcomes[SubmitOutcome.UNSENT],
            too_old=self._outcomes[SubmitOutcome.TOO_OLD],
            missed=self.missed,
            stalled_s=round(stalled_s, 3),
            seconds=round(seconds, 3),
            accepted_hz=round(accepted / seconds, 2) if seconds > 0 else 0.0,
            blocked_s=round(blocked_s, 3),
            refused={bound.value: self._refused[bound] for bound in Bound},
        )
