"""What the producer's tests share: images, results, and jobs finished as a worker leaves them, by RQ itself."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import redis
from PIL import Image
from rq import Queue, SimpleWorker, Worker, get_current_job
from rq.job import Job
from rq.serializers import JSONSerializer

from shared import keys
from shared.schemas import Label, Outcome, SortResult


def jpeg(gray: int = 128, *, size_px: int = 16) -> bytes:
    """A small gray JPEG."""
    stream = io.BytesIO()
    Image.new("RGB", (size_px, size_px), (gray, gray, gray)).save(stream, "JPEG")
    return stream.getvalue()


def sort_result(
    job_id: str, outcome: Outcome = Outcome.SORTED, *, line: str = "line-1", frame_id: int = 7
) -> SortResult:
    """A result as a worker would write it."""
    return SortResult(
        job_id=job_id,
        line=line,
        camera="camera-1",
        frame_id=frame_id,
        captured_at=1_700_000_000.0,
        finished_at=1_700_000_000.25,
        outcome=outcome,
        labels=(Label(label="no cap", probability=0.875), Label(label="pigmented", probability=0.75)),
        lane="reject",
        deadline_margin_ms=-50.0,
        worker="test",
        error="given up" if outcome is Outcome.FAILED else None,
    )


def answer(result: dict[str, object]) -> dict[str, object]:
    """The job function of these tests: its return value is the result it was given."""
    return result


def answer_or_fail(result: dict[str, object]) -> dict[str, object]:
    """Like `answer`, but a failed result is left in the job's meta, and raised."""
    if result["outcome"] != Outcome.FAILED:
        return result
    job = get_current_job()
    assert job is not None
    job.meta["sort_result"] = result
    job.save_meta()
    raise RuntimeError("given up")


def finish(client: redis.Redis, results: Sequence[SortResult]) -> None:
    """Have RQ's own worker end these jobs with these results, under the job ids in them."""
    queue = Queue("finished-by-rq", connection=client, serializer=JSONSerializer)
    for result in results:
        client.lrem(keys.rq_queue("live"), 0, result.job_id)
        client.lrem(keys.rq_queue("bulk"), 0, result.job_id)
        queue.enqueue(answer_or_fail, result.model_dump(mode="json"), job_id=result.job_id, result_ttl=600)
    SimpleWorker([queue], connection=client, serializer=JSONSerializer).work(burst=True, logging_level="ERROR")


def register_worker(client: redis.Redis, name: str, *queues: str) -> None:
    """Register a worker of these queues, as RQ's own worker registers itself."""
    Worker(queues, name=name, connection=client, serializer=JSONSerializer).register_birth()


def write_finished(client: redis.Redis, results: Sequence[SortResult]) -> None:
    """Write the few fields of finished jobs that readers need, without RQ, which is fast enough for thousands."""
    import base64

    with client.pipeline(transaction=False) as pipe:
        for result in results:
            value = base64.b64encode(result.model_dump_json().encode())
            pipe.hset(keys.rq_job(result.job_id), mapping={"status": "finished"})
            pipe.xadd(keys.rq_results(result.job_id), {"type": 1, "worker_name": "test", "return_value": value})
        pipe.execute()


def publish(client: redis.Redis, result: SortResult, *, entry_id: str = "*") -> None:
    """One result on its line's stream, as a worker puts it there; `entry_id` to say when it came."""
    client.sadd(keys.LINES, result.line)
    client.xadd(keys.results(result.line), {"result": result.model_dump_json()}, id=entry_id)


def arguments(client: redis.Redis, job_id: str) -> dict[str, object]:
    """The ImageJob of a queued job, as RQ's own reader sees it."""
    job = Job.fetch(job_id, connection=client, serializer=JSONSerializer)
    (argument,) = job.args
    assert isinstance(argument, dict)
    return json.loads(json.dumps(argument))
