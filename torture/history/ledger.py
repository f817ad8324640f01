"""The ledger: what the producers tried, and what was acknowledged or refused. Written by `feeder`, read by `checker`.

Each producer has a file of JSON lines: `attempt` before it sends images, `accepted` or `refused` after. Each line is
one `write`, so that a killed producer leaves only whole lines, and loses none: the kernel already has them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from producer.frames import Frame


class Submission(NamedTuple):
    """One image as it was sent. `kind`: `plain`, or what is wrong with it. Times are UTC epoch seconds."""

    job_id: str
    line: str
    camera: str
    frame_id: int | str | None
    encoder_count: int | None
    captured_at: float
    queue: str
    kind: str = "plain"
    deadline_at: float | None = None


class Acknowledgement(NamedTuple):
    """When an acknowledged call began, and when its answer had arrived (UTC epoch seconds)."""

    sent_at: float
    answered_at: float


def submission_of(frame: Frame, job_id: str, *, kind: str) -> Submission:
    """The submission of a frame whose time of capture is set."""
    assert frame.captured_at is not None
    deadline_at = None if frame.deadline_ms is None else frame.captured_at + frame.deadline_ms / 1000
    return Submission(
        job_id=job_id,
        line=frame.line,
        camera=frame.camera,
        frame_id=frame.frame_id,
        encoder_count=frame.encoder_count,
        captured_at=frame.captured_at,
        queue=frame.queue,
        kind=kind,
        deadline_at=deadline_at,
    )


class LedgerWriter:
    """Appends to the ledger of one producer."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def attempt(self, submissions: Sequence[Submission]) -> None:
        """These are about to be sent."""
        self._write({"event": "attempt", "submissions": submissions})

    def accepted(self, job_ids: Sequence[str], *, sent_at: float) -> None:
        """The server has just acknowledged these. The call began at `sent_at` (UTC epoch seconds)."""
        if job_ids:
            times = Acknowledgement(sent_at, answered_at=time.time())
            self._write({"event": "accepted", "times": times, "job_ids": list(job_ids)})

    def refused(self, job_ids: Sequence[str], reason: str) -> None:
        """The server has refused these. They are not sent again."""
        if job_ids:
            self._write({"event": "refused", "job_ids": list(job_ids), "reason": reason})

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, entry: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")


@dataclass(slots=True)
class Ledger:
    """What all producers did, by job id. `refused` has the reasons.

    An image may be neither accepted nor refused, e.g. if its producer was killed. Such an image may have a result.
    """

    submissions: dict[str, Submission] = field(default_factory=dict)
    accepted: dict[str, Acknowledgement] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def read_ledger(paths: Iterable[Path]) -> Ledger:
    """The ledger of these files."""
    ledger = Ledger()
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                _add(ledger, json.loads(line))
    return ledger


def _add(ledger: Ledger, entry: dict[str, Any]) -> None:
    match entry["event"]:
        case "attempt":
            for fields in entry["submissions"]:
                submission = Submission(*fields)
                ledger.submissions[submission.job_id] = submission
        case "accepted":
            for job_id in entry["job_ids"]:
                ledger.accepted[job_id] = Acknowledgement(*entry["times"])
        case "refused":
            ledger.refused |= dict.fromkeys(entry["job_ids"], entry["reason"])
