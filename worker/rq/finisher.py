"""Finisher: records in Redis how jobs ended. In: `FinishedJob` records. Out: results and RQ's statuses.

One script call per batch writes RQ's status, Result and registries and our stream, but only for jobs whose lease is
still held.
"""

from __future__ import annotations

import base64
import json
import logging
import time
import zlib
from collections.abc import Callable, Sequence

import redis

from shared.errors import CommandRefused
from shared.rq_time import format_rq_time
from shared.server.error_translation import translate
from shared.server.raw_connection import RawConnection
from shared.settings import Settings
from worker.rq import scripts
from worker.rq.broken_keys import BrokenKeys
from worker.rq.job_fields import ttl_s
from worker.state.jobs import Disposition, FinishedJob

log = logging.getLogger("sortline.finish")


class Finisher:
    """Finishes the jobs of one worker, one batch at a time."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        worker: str,
        settings: Settings,
        broken_keys: BrokenKeys | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._script = scripts.load_repeatable(RawConnection(client), "finish")
        self._broken_keys = broken_keys or BrokenKeys()
        self._worker = worker
        self._stream_maxlen = settings.results_maxlen
        self._result_ttl_s, self._failure_ttl_s = settings.result_ttl_s, settings.failure_ttl_s
        self._clock = clock

    def finish(self, batch: Sequence[FinishedJob]) -> list[bool]:
        """Finish the jobs. False for a job whose lease was lost, or that could not be written, which is logged.

        Raises:
            redis.exceptions.RedisError: the server can't be reached, or refuses to write now. Call again with the same
                batch: if it was finished and only the answer was lost, the call returns that answer.
        """
        try:
            return self._finish(batch)
        except redis.exceptions.ResponseError as error:
            if not _is_script_error(error):
                raise
            return self._finish_in_halves(batch, error)

    def _finish(self, batch: Sequence[FinishedJob]) -> list[bool]:
        now = self._clock()
        args: list[str | bytes | float] = [
            self._worker,
            format_rq_time(now),
            now,
            self._stream_maxlen,
        ]
        for finished in batch:
            args += self._arguments(finished)
        answers, problems = self._script(args)
        self._broken_keys.report(problems)
        return [answer == "1" for _, answer in zip(batch, answers.decode(), strict=True)]

    def _finish_in_halves(self, batch: Sequence[FinishedJob], error: redis.exceptions.ResponseError) -> list[bool]:
        """The script failed on the batch. Find the job that it can't write, and finish the others.

        That job keeps its lease until the lease expires. This counts as a loss, so the job fails in the end.
        """
        if len(batch) == 1:
            log.error("job %.200r can't be finished: the script says %s", batch[0].claimed.lease.job_id, error)
            return [False]
        half = len(batch) // 2
        return self.finish(batch[:half]) + self.finish(batch[half:])

    def _arguments(self, finished: FinishedJob) -> list[str | bytes | float]:
        lease = finished.claimed.lease
        result_json, line = b"", ""
        if finished.result is not None:
            result_json, line = finished.result.json_bytes(), finished.result.line
        payload, meta = b"", b""
        if finished.disposition is Disposition.SUCCESS:
            payload = base64.b64encode(result_json)
        elif finished.disposition is Disposition.FAILURE:
            payload = base64.b64encode(zlib.compress(finished.error_text.encode(errors="backslashreplace")))
            meta = failure_meta(result_json)
        return [
            finished.disposition.value,
            lease.queue,
            lease.job_id,
            lease.execution_id,
            lease.started_at,
            ttl_s(finished.claimed.result_ttl_s, default_s=self._result_ttl_s),
            ttl_s(finished.claimed.failure_ttl_s, default_s=self._failure_ttl_s),
            line,
            result_json,
            payload,
            meta,
            "1" if finished.keeps_image else "",
            finished.claimed.counted_line,
            finished.claimed.counted_bytes,
        ]


def failure_meta(result_json: bytes) -> bytes:
    """A failed job's SortResult as RQ meta: RQ keeps no return value for a failed job."""
    if not result_json:
        return b""
    return json.dumps({"sort_result": json.loads(result_json)}).encode()


def _is_script_error(error: redis.exceptions.ResponseError) -> bool:
    """Whether a script raised. False if the server can't write now, or the worker lacks the permission."""
    return isinstance(translate(error), CommandRefused) and "user_script" in str(error)
