"""A producer that records what it does. Run as a process: `python -m torture.plant.feeder LEDGER CAMERA SEED OPTIONS`.

It sends images at a fixed rate through `LineProducer`, as a camera does. Images that were not acknowledged
(`RedisUnavailable`) are sent again, until the feeder is told to end. Only its ledger knows which images were
acknowledged.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from producer.frames import Frame, PreparedJob
from producer.submit import LineProducer
from shared.errors import CommandRefused, QueueFull, RedisUnavailable
from shared.settings import load_settings
from torture.history.ledger import LedgerWriter, Submission, submission_of
from torture.plant.images import ImageMaker
from torture.plant.lifeline import end_with_caller

# The wait before images are sent again.
RETRY_S = 0.1
# A feeder that falls behind its schedule by more than this, e.g. while the server is away, skips the rest.
MAX_BEHIND_S = 1.0
# The longest sleep. A feeder that is told to end notices within this time.
POLL_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class FeederOptions:
    """What a feeder sends, and how fast."""

    lines: tuple[str, ...] = ("line-1", "line-2")
    queue: str = "live"
    rate_hz: float = 150.0
    burst: int = 4  # images in one call
    deadline_ms: float | None = None

    def to_json(self) -> str:
        """The argument that passes it to a feeder's process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FeederOptions:
        """Parse what `to_json` has written."""
        fields = json.loads(text)
        return cls(**fields | {"lines": tuple(fields["lines"])})


class Feeder:
    """Sends until `is_told_to_end`."""

    def __init__(self, options: FeederOptions, *, producer: LineProducer, ledger: Path, camera: str, seed: int) -> None:
        self._options = options
        self._producer = producer
        self._camera = camera
        self._ledger = LedgerWriter(ledger)
        self._images = ImageMaker(seed)
        self._count = 0
        self.is_told_to_end = False

    def run(self) -> None:
        """Send each burst when it is due."""
        due = time.monotonic()
        while not self.is_told_to_end:
            wait_s = due - time.monotonic()
            if wait_s > 0:
                time.sleep(min(wait_s, POLL_S))
                continue
            self._send([self._prepare() for _ in range(self._options.burst)])
            due = max(due + self._options.burst / self._options.rate_hz, time.monotonic() - MAX_BEHIND_S)

    def _prepare(self) -> tuple[PreparedJob, Submission]:
        options, number = self._options, self._count
        self._count += 1
        frame = Frame(
            data=self._images.make(),
            line=options.lines[number % len(options.lines)],
            camera=self._camera,
            frame_id=number,
            encoder_count=1_000 * number,
            captured_at=time.time(),
            deadline_ms=options.deadline_ms,
            queue=options.queue,
        )
        job = self._producer.prepare(frame)
        return job, submission_of(frame, job.job_id, kind="plain")

    def _send(self, prepared: list[tuple[PreparedJob, Submission]]) -> None:
        """Send until the server has acknowledged or refused them all, or the feeder is told to end."""
        jobs = [job for job, _ in prepared]
        self._ledger.attempt([submission for _, submission in prepared])
        is_repeat = False
        while True:
            sent_at = time.time()
            try:
                self._producer.send(jobs, partial=True)
            except QueueFull as error:
                self._ledger.accepted(error.accepted, sent_at=sent_at)
                if not is_repeat:  # otherwise an earlier call, whose answer was lost, may have enqueued them
                    accepted = set(error.accepted)
                    self._ledger.refused([job.job_id for job in jobs if job.job_id not in accepted], str(error))
                return
            except (RedisUnavailable, CommandRefused):  # refused while a key of the queue holds another type (`forged`)
                if self.is_told_to_end:
                    return
                is_repeat = True
                time.sleep(RETRY_S)
            else:
                self._ledger.accepted([job.job_id for job in jobs], sent_at=sent_at)
                return


def main() -> None:
    """Run one feeder until SIGTERM, or until the process that started it ends."""
    ledger, camera, seed, options = sys.argv[1:]
    feeder = Feeder(
        FeederOptions.from_json(options),
        producer=LineProducer(load_settings()),
        ledger=Path(ledger),
        camera=camera,
        seed=int(seed),
    )

    def end(*_: object) -> None:
        feeder.is_told_to_end = True

    signal.signal(signal.SIGTERM, end)
    end_with_caller()
    feeder.run()


if __name__ == "__main__":
    main()
