"""Finish: writes ended jobs to Redis. In: `Done` records. Out: which of them still were this worker's.

One script call per batch writes RQ's status, Result and registries and our stream, only where the lease
is still held. Called by the pipeline's finish thread.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Callable, Sequence

import redis

from shared.settings import Settings
from shared.wire import Wire
from worker import scripts
from worker.claim import stamp
from worker.items import Done, Ending


class Finisher:
    """Finishes the jobs of one worker."""

    def __init__(
        self, client: redis.Redis, *, worker: str, settings: Settings, clock: Callable[[], float] = time.time
    ) -> None:
        self._script = scripts.load(Wire(client), "finish")
        self._worker = worker
        self._stream_maxlen = settings.results_maxlen
        self._result_ttl_s = settings.result_ttl_s
        self._clock = clock

    def finish(self, batch: Sequence[Done]) -> list[bool]:
        """Finish the jobs; False where the lease had been lost and nothing was written.

        Raises:
            redis.exceptions.RedisError: the server can't be reached. Calling again is safe: a job
                that was finished after all answers False then.
        """
        now = self._clock()
        args: list[str | bytes | float] = [self._worker, stamp(now), now, self._stream_maxlen, self._result_ttl_s]
        for done in batch:
            args += self._arguments(done)
        return [bool(held) for held in self._script(args=args)]

    def _arguments(self, done: Done) -> list[str | bytes | float]:
        lease = done.claimed.lease
        result_json, line = b"", ""
        if done.result is not None:
            result_json, line = done.result.model_dump_json().encode(), done.result.line
        payload, meta = b"", b""
        if done.ending is Ending.SUCCESS:
            payload = base64.b64encode(result_json)
        elif done.ending is Ending.FAILURE:
            payload = base64.b64encode(zlib.compress(done.error_text.encode()))
            meta = failure_meta(result_json)
        return [
            done.ending.value,
            lease.queue,
            lease.job_id,
            lease.execution_id,
            lease.started_at,
            done.claimed.result_ttl_s,
            done.claimed.failure_ttl_s,
            line,
            result_json,
            payload,
            meta,
        ]


def failure_meta(result_json: bytes) -> bytes:
    """A failed job's SortResult as RQ meta: RQ keeps no return value for a failed job."""
    if not result_json:
        return b""
    return json.dumps({"sort_result": json.loads(result_json)}).encode()
