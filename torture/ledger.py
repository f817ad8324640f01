"""The ledger: what the producers tried, and what was acknowledged or refused. Written by `feeder`, read by `checker`.

A file of JSON lines for each producer, `attempt` before an image is sent and `accepted` or `refused` after it. A line
is one `write`, so that a producer which is killed leaves whole lines: the kernel has them, though the process is gone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from producer.submit import Frame


class Submission(NamedTuple):
    """One image as it was sent. `kind`: `plain`, or what is wrong with it."""

    job_id: str
    line: str
    camera: str
    frame_id: int | str | None
    encoder_count: int | None
    captured_at: float
    queue: str
    kind: str = "plain"


def submission_of(frame: Frame, job_id: str, *, kind: str) -> Submission:
    """The submission of a frame that says when it was captured."""
    assert frame.captured_at is not None
    return Submission(
        job_id=job_id,
        line=frame.line,
        camera=frame.camera,
        frame_id=frame.frame_id,
        encoder_count=frame.encoder_count,
        captured_at=frame.captured_at,
        queue=frame.queue,
        kind=kind,
    )


class LedgerWriter:
    """Appends to the ledger of one producer."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def attempt(self, submissions: Sequence[Submission]) -> None:
        """These are about to be sent."""
        self._write({"event": "attempt", "submissions": submissions})

    def accepted(self, job_ids: Sequence[str], *, sent_at: float) -> None:
        """The server has acknowledged these; the call that it acknowledged began at this time (UTC epoch seconds)."""
        if job_ids:
            self._write({"event": "accepted", "sent_at": sent_at, "job_ids": list(job_ids)})

    def refused(self, job_ids: Sequence[str], reason: str) -> None:
        """These were refused, and are not sent again."""
        if job_ids:
            self._write({"event": "refused", "job_ids": list(job_ids), "reason": reason})

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)

    def _write(self, entry: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")


@dataclass(slots=True)
class Ledger:
    """What all producers did, by job id. Of an image that was accepted, when the acknowledged call began."""

    submissions: dict[str, Submission] = field(default_factory=dict)
    accepted: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def unknown(self) -> set[str]:
        """Sent, but neither acknowledged nor refused: the producer died or was stopped. A result is allowed."""
        return self.submissions.keys() - self.accepted.keys() - self.refused.keys()


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
                ledger.accepted.setdefault(job_id, entry["sent_at"])
        case "refused":
            ledger.refused |= dict.fromkeys(entry["job_ids"], entry["reason"])
