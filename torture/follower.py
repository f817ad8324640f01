"""The follower: reads results as they come, and how RQ sees each job at that moment. On a thread of its own.

It can't be done at the end. The streams are trimmed, and RQ's copies expire.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple

import redis

from shared import keys
from shared.connection import connect
from shared.errors import Transient
from shared.schemas import Outcome

READ_COUNT = 1_000
POLL_S = 0.05
AWAY_S = 0.1


class Entry(NamedTuple):
    """One SortResult, as a consumer of its line saw it."""

    stream: str
    entry_id: str
    outcome: str
    attempt: int
    worker: str
    finished_at: float
    order: tuple[Any, ...]  # line, camera, frame_id, encoder_count, captured_at
    error: str | None


@dataclass(slots=True)
class Seen:
    """What the follower saw until now."""

    entries: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))  # by job
    wrong_status: dict[str, str] = field(default_factory=dict)  # by job: what RQ said of it
    unreadable: list[str] = field(default_factory=list)  # stream and id of what is no SortResult
    missed: int = 0  # entries that were trimmed before they were read: the run proves nothing


class Follower:
    """Follows the streams of all lines from `start` to `stop`. Waits while the server is away."""

    def __init__(self, redis_url: str, *, queues: Sequence[str]) -> None:
        self.seen = Seen()
        self._client: Any = connect(redis_url)
        self._lines: set[bytes] = set()  # as the server's set of them may be replaced
        self._asides: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._registries = {name: [f"rq:{name}:{queue}" for queue in queues] for name in ("finished", "failed")}
        self._last: dict[str, str] = {}  # by stream: the last entry that was read
        self._read: dict[str, int] = defaultdict(int)  # by stream: how many were
        self._unchecked: list[tuple[str, Entry]] = []  # jobs whose results were read, but not yet RQ's view of them
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

    def read_aside(self, key: str, *, stream: str) -> None:
        """Read what `stream` held before it was moved to this key. For any thread."""
        self._asides.put((key, stream))

    def look_aside(self, key: str, *, registry: str) -> None:
        """Look for jobs here too: a registry of RQ's (`finished` or `failed`) is moved here. For any thread."""
        self._registries[registry].append(key)

    def stop(self) -> Seen:
        """Read what is there, and end.

        Raises:
            Transient: the follower failed, or the server does not answer.
        """
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise Transient(f"the follower of the results failed: {self._failure!r}.") from self._failure
        while self._step():
            pass
        self._client.close()
        return self.seen

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._step():
                    self._stopping.wait(POLL_S)
            except redis.exceptions.RedisError:
                self._stopping.wait(AWAY_S)
            except Exception as error:
                self._failure = error
                return

    def _step(self) -> int:
        """Read what is new, and look at its jobs; how many entries there were."""
        self._check_jobs()  # those that the server left unanswered last time
        self._read_asides()
        self._lines |= self._client.smembers(keys.LINES)
        streams = [keys.results(line.decode()) for line in self._lines]
        if not streams:
            return 0
        self._look_at_streams(streams)
        answer = self._client.xread({stream: self._last.get(stream, "0") for stream in streams}, count=READ_COUNT)
        count = 0
        for stream, entries in answer:
            for entry_id, fields in entries:
                self._last[stream.decode()] = entry_id.decode()
                self._read[stream.decode()] += 1
                self._take(stream.decode(), entry_id.decode(), fields)
            count += len(entries)
        self._check_jobs()
        return count

    def _read_asides(self) -> None:
        """Most of their entries were read before they were moved, and are not taken again."""
        while not self._asides.empty():
            key, stream = self._asides.get()
            try:
                entries = self._client.xrange(key)
            except redis.exceptions.ConnectionError:
                self._asides.put((key, stream))
                raise
            for entry_id, fields in entries:
                self._take(stream, entry_id.decode(), fields)

    def _take(self, stream: str, entry_id: str, fields: dict[bytes, bytes]) -> None:
        try:
            result = json.loads(fields[b"result"])
            entry = _entry(stream, entry_id, result)
        except (KeyError, ValueError, TypeError):
            if (name := f"{stream} {entry_id}") not in self.seen.unreadable:
                self.seen.unreadable.append(name)
            return
        of_job = self.seen.entries[result["job_id"]]
        if any((each.stream, each.entry_id) == (stream, entry_id) for each in of_job):
            return
        of_job.append(entry)
        self._unchecked.append((result["job_id"], entry))

    def _look_at_streams(self, streams: Sequence[str]) -> None:
        """Count what was missed, and notice streams that began anew.

        A stream's oldest entries are the ones that were trimmed: more of them than were read are missed.
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
            self.seen.missed += missed
            self._read[stream] += missed

    def _check_jobs(self) -> None:
        """Whether RQ says of each job what its result says: the finish step writes both at once."""
        if not self._unchecked:
            return
        ids = [job_id for job_id, _ in self._unchecked]
        with self._client.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hget(keys.rq_job(job_id), "status")
            finished, failed = (list(self._registries[name]) for name in ("finished", "failed"))
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
            self.seen.wrong_status.pop(job_id, None)
            return
        registries = [name for name, is_in in (("finished", is_finished), ("failed", is_failed)) if is_in]
        self.seen.wrong_status[job_id] = (
            f"outcome {entry.outcome}, status {(status or b'none').decode()}, "
            f"in {' and '.join(registries) or 'no registry'}"
        )


def _entry(stream: str, entry_id: str, result: dict[str, Any]) -> Entry:
    return Entry(
        stream=stream,
        entry_id=entry_id,
        outcome=result["outcome"],
        attempt=result["attempt"],
        worker=result["worker"],
        finished_at=result["finished_at"],
        order=tuple(result[name] for name in ("line", "camera", "frame_id", "encoder_count", "captured_at")),
        error=result["error"],
    )


def _parts(entry_id: str) -> tuple[int, ...]:
    """An entry's id, to be compared."""
    return tuple(int(part) for part in entry_id.split("-"))
