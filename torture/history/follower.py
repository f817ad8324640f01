"""The follower: reads each result as it comes, and asks RQ about its job at once. On a thread of its own.

This can't wait until the end: the streams are trimmed, and RQ's copies expire.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple

import redis

from shared import keys
from shared.errors import Transient
from shared.schemas import Outcome
from shared.server.connection import connect

READ_COUNT = 1_000
POLL_S = 0.05
RETRY_S = 0.1


class Entry(NamedTuple):
    """One SortResult in its line's stream. Times are UTC epoch seconds."""

    stream: str
    entry_id: str
    outcome: str
    attempt: int
    worker: str
    finished_at: float  # by the server's clock
    margin_ms: float | None  # from the result to the deadline
    order: tuple[Any, ...]  # line, camera, frame_id, encoder_count, captured_at
    error: str | None

    @property
    def written_at(self) -> float:
        """By the server's clock, to the millisecond."""
        return _parts(self.entry_id)[0] / 1000


class Disagreement(NamedTuple):
    """RQ's view of a job did not match the job's result when RQ was asked (UTC epoch seconds)."""

    text: str
    entry: Entry
    asked_at: float


@dataclass(slots=True)
class Observations:
    """What the follower has seen so far."""

    entries: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))  # by job
    disagreements: dict[str, Disagreement] = field(default_factory=dict)  # by job
    unreadable: list[str] = field(default_factory=list)  # stream and id of each entry that is not a SortResult
    missed: int = 0  # entries that were trimmed before they could be read: the run proves nothing


class Follower:
    """Follows the streams of all lines from `start` to `stop`. Keeps trying while the server can't be reached."""

    def __init__(self, redis_url: str, *, queues: Sequence[str]) -> None:
        self.observed = Observations()
        self._client: Any = connect(redis_url)
        self._lines: set[bytes] = set()  # kept here too: a campaign may overwrite the server's set
        self._moved_streams: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._finished = [keys.rq_finished(queue) for queue in queues]
        self._failed = [keys.rq_failed(queue) for queue in queues]
        self._last: dict[str, str] = {}  # by stream: the id of the last entry that was read
        self._read: dict[str, int] = defaultdict(int)  # by stream: how many entries were read
        self._unchecked: list[tuple[str, Entry]] = []  # jobs whose results were read, but not yet RQ's view of them
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

    def read_moved_stream(self, key: str, *, stream: str) -> None:
        """Also read this key, to which a campaign has moved what `stream` held. For any thread."""
        self._moved_streams.put((key, stream))

    def read_moved_registry(self, key: str, *, registry: str) -> None:
        """Also look for jobs in this key, to which a campaign has moved RQ's registry of that name. For any thread."""
        {"finished": self._finished, "failed": self._failed}[registry].append(key)

    def stop(self) -> Observations:
        """Read all results that are still unread, and end.

        Raises:
            Transient: the follower failed.
            RedisError: the server does not answer.
        """
        self.end()
        if self._failure is not None:
            raise Transient(f"the follower of the results failed: {self._failure!r}.") from self._failure
        while self._step():
            pass
        self._client.close()
        return self.observed

    def end(self) -> None:
        """End, without reading the rest."""
        self._stopping.set()
        self._thread.join()

    def is_up_to_date(self) -> bool:
        """Whether it has read the last entry of each stream."""
        streams = [keys.results(line.decode()) for line in tuple(self._lines)]
        with self._client.pipeline(transaction=False) as pipeline:
            for stream in streams:
                pipeline.xrevrange(stream, count=1)
            answers = pipeline.execute(raise_on_error=False)
        latest = {stream: entries for stream, entries in zip(streams, answers, strict=True) if entries}
        return all(
            isinstance(entries, Exception) or self._last.get(stream) == entries[0][0].decode()
            for stream, entries in latest.items()
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._step():
                    self._stopping.wait(POLL_S)
            except redis.exceptions.RedisError:
                self._stopping.wait(RETRY_S)
            except Exception as error:
                self._failure = error
                return

    def _step(self) -> int:
        """Read the new entries, and check their jobs. Returns the number of new entries."""
        self._check_jobs()  # those that could not be checked last time, as the server did not answer
        self._read_moved_streams()
        self._lines |= self._client.smembers(keys.LINES)
        streams = [keys.results(line.decode()) for line in self._lines]
        if not streams:
            return 0
        self._check_streams(streams)
        answer = self._client.xread({stream: self._last.get(stream, "0") for stream in streams}, count=READ_COUNT)
        count = 0
        for stream, entries in answer:
            for entry_id, fields in entries:
                self._last[stream.decode()] = entry_id.decode()
                self._read[stream.decode()] += 1
                self._record(stream.decode(), entry_id.decode(), fields)
            count += len(entries)
        self._check_jobs()
        return count

    def _read_moved_streams(self) -> None:
        """Most of these entries were read before they were moved; `_record` skips those."""
        while not self._moved_streams.empty():
            key, stream = self._moved_streams.get()
            try:
                entries = self._client.xrange(key)
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                self._moved_streams.put((key, stream))
                raise
            for entry_id, fields in entries:
                self._record(stream, entry_id.decode(), fields)

    def _record(self, stream: str, entry_id: str, fields: dict[bytes, bytes]) -> None:
        try:
            result = json.loads(fields[b"result"])
            entry = _entry(stream, entry_id, result)
        except (KeyError, ValueError, TypeError):
            if (name := f"{stream} {entry_id}") not in self.observed.unreadable:
                self.observed.unreadable.append(name)
            return
        of_job = self.observed.entries[result["job_id"]]
        if any((each.stream, each.entry_id) == (stream, entry_id) for each in of_job):
            return
        of_job.append(entry)
        self._unchecked.append((result["job_id"], entry))

    def _check_streams(self, streams: Sequence[str]) -> None:
        """Count missed entries, and notice streams that began anew.

        Trimming removes the oldest entries. If more were removed than were read, the difference was missed.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            for stream in streams:
                pipeline.xinfo_stream(stream)
            answers = pipeline.execute(raise_on_error=False)
        for stream, about in zip(streams, answers, strict=True):
            if isinstance(about, Exception):  # it has just expired, or the server was emptied
                continue
            if about["entries-added"] < self._read[stream]:  # the server lost its data, and the stream began anew
                self._read[stream] = 0
            if _parts(about["last-generated-id"].decode()) < _parts(self._last.get(stream, "0-0")):
                self._last[stream] = "0-0"
            missed = max(0, about["entries-added"] - about["length"] - self._read[stream])
            self.observed.missed += missed
            self._read[stream] += missed

    def _check_jobs(self) -> None:
        """Compare RQ's view of each job with its result: the finish step writes both at once."""
        if not self._unchecked:
            return
        ids = [job_id for job_id, _ in self._unchecked]
        with self._client.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hget(keys.rq_job(job_id), "status")
            finished, failed = list(self._finished), list(self._failed)
            for registry in (*finished, *failed):
                pipeline.zmscore(registry, ids)
            answers = pipeline.execute()
        statuses, scores = answers[: len(ids)], answers[len(ids) :]
        for number, (job_id, entry) in enumerate(self._unchecked):
            is_finished, is_failed = (
                any(of_registry[number] is not None for of_registry in part)
                for part in (scores[: len(finished)], scores[len(finished) :])
            )
            self._check_job(job_id, entry, status=statuses[number], is_finished=is_finished, is_failed=is_failed)
        self._unchecked = []

    def _check_job(
        self, job_id: str, entry: Entry, *, status: bytes | None, is_finished: bool, is_failed: bool
    ) -> None:
        failed = entry.outcome == Outcome.FAILED
        if (status, is_finished, is_failed) == (b"failed" if failed else b"finished", not failed, failed):
            self.observed.disagreements.pop(job_id, None)
            return
        registries = [name for name, is_in in (("finished", is_finished), ("failed", is_failed)) if is_in]
        text = (
            f"outcome {entry.outcome}, status {(status or b'none').decode()}, "
            f"in {' and '.join(registries) or 'no registry'}"
        )
        self.observed.disagreements[job_id] = Disagreement(text, entry, asked_at=time.time())


def _entry(stream: str, entry_id: str, result: dict[str, Any]) -> Entry:
    return Entry(
        stream=stream,
        entry_id=entry_id,
        outcome=result["outcome"],
        attempt=result["attempt"],
        worker=result["worker"],
        finished_at=result["finished_at"],
        margin_ms=result["deadline_margin_ms"],
        order=tuple(result[name] for name in ("line", "camera", "frame_id", "encoder_count", "captured_at")),
        error=result["error"],
    )


def _parts(entry_id: str) -> tuple[int, ...]:
    """An entry's id as numbers, which compare as the server compares ids."""
    return tuple(int(part) for part in entry_id.split("-"))
