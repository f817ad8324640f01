"""Sends images for a campaign, and records them in a ledger as a feeder does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from producer.frames import Frame
from producer.submit import LineProducer
from shared.settings import Settings
from torture.history.ledger import LedgerWriter, Submission, submission_of
from torture.plant.plant import Plant


class Sender:
    """Sends to the same lines as the feeders, so that a bad image has a chance to harm theirs."""

    def __init__(self, plant: Plant, *, lines: Sequence[str]) -> None:
        self.ledger: LedgerWriter = plant.open_ledger()
        self._lines = lines
        self._numbers = itertools.count()

    def frame(self, data: bytes, *, queue: str = "live") -> Frame:
        """The next frame, captured now."""
        number = next(self._numbers)
        return Frame(
            data=data,
            line=self._lines[number % len(self._lines)],
            camera="campaign",
            frame_id=number,
            encoder_count=number,
            captured_at=time.time(),
            queue=queue,
        )

    def send(self, images: Sequence[tuple[bytes, str]], settings: Settings) -> list[Submission]:
        """Submit images in one call, each with its kind; `settings` are the producer's."""
        producer = LineProducer(settings)
        frames = [self.frame(data) for data, _ in images]
        jobs = [producer.prepare(frame) for frame in frames]
        submissions = [
            submission_of(frame, job.job_id, kind=kind)
            for frame, job, (_, kind) in zip(frames, jobs, images, strict=True)
        ]
        self.ledger.attempt(submissions)
        sent_at = time.time()
        producer.send(jobs)
        self.ledger.accepted([job.job_id for job in jobs], sent_at=sent_at)
        producer.close()
        return submissions
