"""The follower: reads results as they come, and how RQ sees each job at that moment. On a thread of its own.

It can't be done at the end. The streams are trimmed, and RQ's copies expire.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
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
        self._queues = list(queues)
        self._last: dict[str, str] = {}  # by stream: the last entry that was read
        self._read: dict[str, int] = defaultdict(int)  # by stream: how many were
        self._unchecked: list[tuple[str, Entry]] = []  # jobs whose results were read, but not yet RQ's view of them
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

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
        streams = [keys.results(line.decode()) for line in self._client.smembers(keys.LINES)]
        if not streams:
            return 0
        self._count_missed(streams)
        answer = self._client.xread({stream: self._last.get(stream, "0") for stream in streams}, count=READ_COUNT)
        count = 0
        for stream, entries in answer:
            for entry_id, fields in entries:
                self._take(stream.decode(), entry_id.decode(), fields)
            count += len(entries)
        self._check_jobs()
        return count

    def _take(self, stream: str, entry_id: str, fields: dict[bytes, bytes]) -> None:
        self._last[stream] = entry_id
        self._read[stream] += 1
        try:
            result = json.loads(fields[b"result"])
            entry = _entry(stream, entry_id, result)
        except (KeyError, ValueError, TypeError):
            self.seen.unreadable.append(f"{stream} {entry_id}")
            return
        self.seen.entries[result["job_id"]].append(entry)
        self._unchecked.append((result["job_id"], entry))

    def _count_missed(self, streams: Sequence[str]) -> None:
        """A stream's oldest entries are the ones that were trimmed: more of them than were read are missed."""
        with self._client.pipeline(transaction=False) as pipeline:
            for stream in streams:
                pipeline.xinfo_stream(stream)
            answers = pipeline.execute(raise_on_error=False)
        for stream, about in zip(streams, answers, strict=True):
            if isinstance(about, Exception):  # it has just expired, or the server was emptied
                continue
            if about["entries-added"] < self._read[stream]:  # the server lost its data, and the stream began anew
                self._read[stream] = 0
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
            for registry in ("finished", "failed"):
                for queue in self._queues:
                    pipeline.zmscore(f"rq:{registry}:{queue}", ids)
            answers = pipeline.execute()
        registries = answers[len(ids) :]
        count = len(self._queues)
        for number, (job_id, entry) in enumerate(self._unchecked):
            status = answers[number]
            is_in = [
                any(scores[number] is not None for scores in part) for part in (registries[:count], registries[count:])
            ]
            self._check_job(job_id, entry, status=status, is_finished=is_in[0], is_failed=is_in[1])
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
