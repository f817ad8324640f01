"""Sends files to a queue and collects one row for each, with its outcome. Called by `sortline upload`.

An upload waits while the queue is full, for as long as the queue moves. It holds one chunk of images in memory at a
time, but all rows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from producer.frames import Frame, PreparedJob, check_names
from producer.queue_movement import QueueMovement
from producer.queue_writer import CHUNK_BYTES, CHUNK_JOBS
from producer.refusals import awaited, pause_s
from producer.result_table import COLUMNS, csv_row
from producer.results import ROUND_JOBS, Answer, AnswerReader
from producer.submit import LineProducer
from producer.upload_inputs import Input, InputReader
from shared.csv_files import CsvWriter
from shared.errors import BadInput, BadSetting, QueueFull, RedisUnavailable
from shared.progress import ignore
from shared.schemas import Outcome, SortResult
from shared.server.connection import connect
from shared.settings import Settings

# The pause before the upload tries an unavailable server again, or asks for results again.
_PAUSE_S = 0.1
_FRAME_ID_CHARACTERS = 256

# Outcomes of a row besides those of a SortResult.
QUEUED = "queued"  # on the queue; the upload does not wait for results
MISSING = "missing"  # no result came, or the queue never accepted the image


@dataclass(slots=True)
class Row:
    """What became of one file. `outcome` and `error` are those of the result, if there is one."""

    file: str
    job_id: str = ""
    outcome: str = MISSING
    error: str = ""
    result: SortResult | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadOptions:
    """Where the images go, and whether to wait.

    `timeout_s` is the longest time without any progress: no image is accepted, no result comes, and the queue in which
    the upload waits does not move.
    """

    line: str
    camera: str = "upload"
    queue: str = "bulk"
    wait: bool = False
    timeout_s: float = 120.0


@dataclass(slots=True)
class UploadProgress:
    """Counts for a progress bar."""

    files: int = 0
    sent: int = 0  # files on the queue, or rejected before sending
    answered: int = 0  # files whose row is final
    waiting: str = ""  # what it waits for while nothing can be sent, in a few words
    problem: str = ""  # why the server refuses at the moment, and how to fix it
    unserved: str = ""  # says that no worker listens to the queue, or that its workers are suspended


@dataclass(slots=True)
class _Chunk:
    jobs: list[PreparedJob] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    image_bytes: int = 0

    def add(self, job: PreparedJob, row: Row) -> None:
        self.jobs.append(job)
        self.rows.append(row)
        self.image_bytes += len(job.image)

    def take(self, job_ids: Collection[str]) -> list[tuple[PreparedJob, Row]]:
        """Remove these jobs and return them with their rows."""
        pairs = list(zip(self.jobs, self.rows, strict=True))
        left = [(job, row) for job, row in pairs if job.job_id not in job_ids]
        self.jobs, self.rows = [job for job, _ in left], [row for _, row in left]
        return [(job, row) for job, row in pairs if job.job_id in job_ids]


class Uploader:
    """Sends inputs and, with `wait`, collects results at the same time. `rows` always has a row for each input."""

    def __init__(
        self,
        options: UploadOptions,
        settings: Settings,
        *,
        on_progress: Callable[[UploadProgress], None] = ignore,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rows: list[Row] = []
        self._options = options
        self._settings = settings
        self._producer = LineProducer(settings, on_unserved=self._on_unserved)
        self._client = connect(settings.redis_url)
        self._results = AnswerReader(self._client, settings.redis_url)
        self._unanswered: dict[str, Row] = {}  # rows that wait for a result, by job id
        self._movement = QueueMovement(self._client, options.queue)
        self._progress = UploadProgress()
        self._on_progress = on_progress
        self._clock = clock
        self._sleep = sleep
        self._progress_at = self._read_at = clock()
        self._unavailable = ""  # the last error, while the server can't be reached for results

    def run(self, inputs: Sequence[Input]) -> list[Row]:
        """Send the inputs; returns one row for each, in their order.

        After `timeout_s` without progress, or if this raises, the rows that have no result stay `missing`, with the
        reason.

        Raises:
            BadSetting: the name of the line, camera or queue can't be used, or the server refuses for a reason that
                waiting won't fix.
            CommandRefused: as `LineProducer.submit`.
        """
        check_names(line=self._options.line, camera=self._options.camera, queue=self._options.queue)
        self._progress.files = len(inputs)
        self.rows = [Row(item.name, error="not sent: the upload was interrupted.") for item in inputs]
        self._progress_at = self._clock()
        try:
            with InputReader(max_image_bytes=self._settings.max_image_bytes) as reader:
                self._send_all(zip(inputs, self.rows, strict=True), reader)
            while self._unanswered:
                self._collect()
        except _GaveUp as error:
            self._give_up(str(error))
        except BadInput as error:
            self._give_up(str(error))
            raise
        finally:
            self._producer.close()
            self._client.close()
        return self.rows

    def _send_all(self, pairs: Iterable[tuple[Input, Row]], reader: InputReader) -> None:
        chunk = _Chunk()
        for item, row in pairs:
            try:
                job = self._prepare(reader.read(item), item.name)
            except BadInput as error:
                row.outcome, row.error = Outcome.REJECTED.value, str(error)
                self._advance(sent=1, answered=1)
                continue
            if chunk.image_bytes + len(job.image) > CHUNK_BYTES:
                chunk = self._flush(chunk)
            chunk.add(job, row)
            if len(chunk.jobs) == CHUNK_JOBS:
                chunk = self._flush(chunk)
        self._flush(chunk)

    def _prepare(self, data: bytes, name: str) -> PreparedJob:
        options = self._options
        return self._producer.prepare(
            Frame(
                data=data,
                line=options.line,
                camera=options.camera,
                frame_id=name[-_FRAME_ID_CHARACTERS:],
                queue=options.queue,
            )
        )

    def _flush(self, chunk: _Chunk) -> _Chunk:
        """Send a chunk, waiting while the queue is full or the server can't serve; returns an empty chunk."""
        self._progress_at = self._clock()  # reading the files was progress, however slow their disk is
        while chunk.jobs:
            try:
                self._producer.send(chunk.jobs, partial=True)
            except QueueFull as error:
                self._note_sent(chunk, error.accepted)
                self._wait_for_room(error)
            except RedisUnavailable as error:
                # The same jobs are sent again, so that jobs that had arrived are not enqueued twice.
                self._wait_for_server(error)
            else:
                self._note_sent(chunk, [job.job_id for job in chunk.jobs])
        if self._unanswered and self._clock() - self._read_at >= _PAUSE_S:
            self._read_answers()
        return _Chunk()

    def _note_sent(self, chunk: _Chunk, job_ids: Sequence[str]) -> None:
        """Take jobs that are in the queue out of the chunk, so that they are not sent again."""
        sent = chunk.take(frozenset(job_ids))
        for job, row in sent:
            row.job_id, row.outcome, row.error = job.job_id, QUEUED, ""
            if self._options.wait:
                row.outcome, row.error = MISSING, "no result: the upload was interrupted."
                self._unanswered[job.job_id] = row
        if sent:
            self._movement.last_sent = sent[-1][0].job_id
        if self._options.wait:
            self._results.add(job.job_id for job, _ in sent)
        self._advance(sent=len(sent), answered=0 if self._options.wait else len(sent))

    def _wait_for_room(self, error: QueueFull) -> None:
        """Wait for a full queue, and read results meanwhile. Gives up if nothing moves for `timeout_s`."""
        if error.__cause__ is not None:  # the server itself refuses; the queue is not at one of its bounds
            self._progress.problem = str(error)
        left_s = pause_s(error)
        while left_s > 0:
            self._progress.waiting = awaited(error.bound, self._settings)  # an answer that comes meanwhile clears it
            self._on_progress(self._progress)
            if self._movement.has_moved():
                self._progress_at = self._clock()
            if not self._read_answers() and self._is_overdue():
                raise _GaveUp(str(error))
            self._sleep(min(left_s, _PAUSE_S))
            left_s -= _PAUSE_S

    def _wait_for_server(self, error: RedisUnavailable) -> None:
        """Wait a little for a server that is unavailable."""
        self._progress.waiting = "server unavailable"
        if error.__cause__ is not None:
            self._progress.problem = str(error)
        self._on_progress(self._progress)
        if self._is_overdue():
            raise _GaveUp(str(error))
        self._sleep(_PAUSE_S)

    def _collect(self) -> None:
        if self._read_answers() >= ROUND_JOBS // 2:
            return  # more answers are likely ready; otherwise pause before asking for the same jobs again
        if self._movement.has_moved() and self._movement.is_waiting():
            self._progress_at = self._clock()  # the images of others are sorted first
        if self._is_overdue():
            waited = f"no result within {self._options.timeout_s:g} s: "
            raise _GaveUp(self._unavailable or waited + self._results.explain_wait())
        self._sleep(_PAUSE_S)

    def _read_answers(self) -> int:
        """Fill in the rows whose answers have arrived; returns how many."""
        self._read_at = self._clock()
        try:
            answers = self._results.poll()
        except RedisUnavailable as error:
            self._unavailable = self._progress.problem = str(error)
            self._progress.waiting = "server unavailable"
            self._on_progress(self._progress)
            return 0
        self._unavailable = ""
        for answer in answers:
            _fill(self._unanswered.pop(answer.job_id), answer)
        self._advance(answered=len(answers))
        return len(answers)

    def _is_overdue(self) -> bool:
        return self._clock() - self._progress_at > self._options.timeout_s

    def _on_unserved(self, problem: str) -> None:
        self._progress.unserved = problem
        self._on_progress(self._progress)

    def _give_up(self, reason: str) -> None:
        for row in self.rows:
            if row.outcome == MISSING and (not row.job_id or row.job_id in self._unanswered):
                row.error = reason

    def _advance(self, *, sent: int = 0, answered: int = 0) -> None:
        if sent or answered:
            self._progress_at = self._clock()
            self._progress.waiting = self._progress.problem = ""
        self._progress.sent += sent
        self._progress.answered += answered
        self._on_progress(self._progress)


class _GaveUp(Exception):
    """There was no progress for `timeout_s`. Never raised to the caller of this module."""


def outcomes(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows have each outcome, most frequent first."""
    return dict(Counter(row.outcome for row in rows).most_common())


def all_answered(rows: Iterable[Row]) -> bool:
    """Whether every file has its result: no result is missing, and no job failed."""
    return all(row.outcome not in (MISSING, Outcome.FAILED.value) for row in rows)


def row_as_json(row: Row) -> dict[str, object]:
    """Return `file` and the fields of `sortline results --json`, which are None if the file has no result."""
    result = dict.fromkeys(SortResult.model_fields) if row.result is None else row.result.model_dump(mode="json")
    return {"file": row.file} | result | _own_columns(row)


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write one line for each row: `file`, and the columns of `sortline results --csv`, under a header.

    Raises:
        BadSetting: the file can't be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = CsvWriter(file, ("file", *COLUMNS))
            for row in rows:
                writer.write({"file": row.file} | (csv_row(row.result) if row.result else {}) | _own_columns(row))
    except OSError as error:
        raise BadSetting(f"--out {path} can't be written: {error.strerror}.") from error


def _own_columns(row: Row) -> dict[str, object]:
    return {"job_id": row.job_id or None, "outcome": row.outcome, "error": row.error or None}


def _fill(row: Row, answer: Answer) -> None:
    row.result = answer.result
    if answer.result is None:
        row.outcome, row.error = MISSING, f"job {answer.job_id} will never have a result: {answer.gone}."
    else:
        row.outcome, row.error = answer.result.outcome.value, answer.result.error or ""
