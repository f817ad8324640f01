"""`worker.tasks.sort_image`: a plain `rq worker` gives the same answers as our worker, with the real engine."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

import worker.tasks
from shared import keys
from shared.clock import ServerClock
from shared.jobs import CLOCK_OFFSET_FIELD, SORT_IMAGE
from shared.rq_time import format_rq_time
from shared.schemas import SortResult
from shared.settings import Settings
from tests.worker import kit, step_inputs
from tests.worker.kit import frame, picture
from worker.models.loading import load_model

PICTURES = [picture(*tones, blue=blue) for *tones, blue in ((0, 0, 0), (250, 3, 90), (128, 127, 0), (9, 200, 250))]


@pytest.fixture
def tiny(settings: Settings, tiny_models: Path) -> Settings:
    """Settings that serve the tiny model."""
    return settings.model_copy(update={"model_store": str(tiny_models), "model": "tiny", "engine": "litert"})


def essence(result: SortResult) -> dict[str, Any]:
    """A result without the fields that differ from run to run."""
    return result.model_dump(exclude={"timings_ms", "finished_at", "deadline_margin_ms", "worker"})


def test_the_same_answers_as_our_worker(
    tiny: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, own_signals: None
) -> None:
    frames = [frame(data, frame_id=number, captured_at=1.7e9) for number, data in enumerate(PICTURES)]
    jobs = kit.prepare(tiny, [*frames, frame(kit.broken_picture(), frame_id=99, captured_at=1.7e9)])
    results: list[list[SortResult]] = []
    for ours in (False, True):
        client.flushall()
        kit.LineProducer(tiny).send(jobs)
        if ours:
            assert kit.WorkerService(tiny, burst=True).run() == 0
        else:
            monkeypatch.setattr(worker.tasks, "_loaded", (load_model(tiny), tiny))
            SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True)
        results.append(sorted(kit.stream(client), key=lambda result: result.job_id))
        for result in results[-1]:
            returned = SortResult.model_validate(kit.fetch(client, result.job_id).return_value())
            assert returned == result, "RQ's return value and the stream differ"
    theirs, ours_ = results
    assert [essence(result) for result in ours_] == [essence(result) for result in theirs]
    assert len(ours_) == 5
    assert {result.model.name for result in ours_ if result.model} == {"tiny"}
    assert len({result.labels for result in ours_}) > 2, "the images are too similar to show a difference"


def test_a_plain_rq_worker_process(tiny: Settings, client: redis.Redis) -> None:
    """Started as a user would start it: it forks for the job, reads settings from the environment, loads the model."""
    (job_id,) = kit.submit(tiny, frame(PICTURES[1]))
    environment = os.environ | {
        "SORTLINE_REDIS_URL": tiny.redis_url,
        "SORTLINE_MODEL_STORE": tiny.model_store,
        "SORTLINE_MODEL": "tiny",
        "PYTHONPATH": str(Path(worker.tasks.__file__).parent.parent),
    }
    tool = Path(sys.executable).with_name("rq")
    options = ["--burst", "--url", tiny.redis_url, "--serializer", "rq.serializers.JSONSerializer"]
    run = subprocess.run(
        [tool, "worker", *options, "live"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert kit.outcomes(client) == {job_id: "sorted"}, run.stderr
    assert SortResult.model_validate(kit.fetch(client, job_id).return_value()) == kit.stream(client)[0]


def test_impossible_times_are_rejected_as_by_our_worker(
    tiny: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, good = kit.submit(tiny, *map(frame, PICTURES[:2]))
    kit.forge(client, ahead, captured_at=time.time() + 3600)
    monkeypatch.setattr(worker.tasks, "_loaded", (load_model(tiny), tiny))
    SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True)
    assert kit.outcomes(client) == {ahead: "rejected", good: "sorted"}


def test_a_broken_stream_is_moved_aside_as_by_our_worker(
    tiny: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, own_signals: None
) -> None:
    (job_id,) = kit.submit(tiny, frame(PICTURES[1]))
    stream = keys.results("l1")
    client.set(stream, "no stream")
    monkeypatch.setattr(worker.tasks, "_loaded", (load_model(tiny), tiny))
    SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True)
    assert kit.outcomes(client) == {job_id: "sorted"}
    assert client.get(keys.broken(stream)) == b"no stream"
    assert 0 < client.ttl(keys.broken(stream)) <= keys.BROKEN_TTL_S


def test_the_jobs_count_no_more_in_the_load_of_their_queue(
    tiny: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.tasks, "_loaded", (load_model(tiny), tiny))
    kit.submit(tiny, *map(frame, PICTURES))
    SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True, max_jobs=1)
    counted = {name: int(value) for name, value in client.hgetall(keys.load("live")).items()}
    assert counted[b"items"] == counted[b"items:l1"] == len(PICTURES) - 1
    assert counted[b"bytes"] == counted[b"bytes:l1"] == sum(map(len, PICTURES[1:]))


def test_settings_and_model_are_loaded_once_in_a_process(
    tiny: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Settings] = []
    monkeypatch.setattr(worker.tasks, "_loaded", None)
    monkeypatch.setattr(worker.tasks, "load_settings", lambda: reads.append(tiny) or tiny)
    kit.submit(tiny, *map(frame, PICTURES))
    SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True)
    assert set(kit.outcomes(client).values()) == {"sorted"}
    assert len(reads) == 1


def test_attempts_are_numbered_by_the_producers_setting(
    tiny: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = tiny.model_copy(update={"max_attempts": 5})
    monkeypatch.setattr(worker.tasks, "_loaded", (load_model(workers), workers))
    kit.submit(tiny.model_copy(update={"max_attempts": 3}), frame(PICTURES[0]))
    SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True)
    assert [result.attempt for result in kit.stream(client)] == [1]


def test_outside_of_rq_the_error_says_what_to_do_instead() -> None:
    with pytest.raises(RuntimeError, match="sortline classify"):
        worker.tasks.sort_image({})


def test_a_job_with_another_jobs_id_in_its_data_is_refused(settings: Settings, client: redis.Redis) -> None:
    """Our worker refuses it too. Otherwise a job could make the worker read any key, or answer for another job."""
    queue = Queue("live", connection=client, serializer=JSONSerializer)
    job = queue.enqueue(SORT_IMAGE, step_inputs.image_job("another").model_dump(mode="json"))
    SimpleWorker([queue], connection=client, serializer=JSONSerializer).work(burst=True)
    failure = kit.fetch(client, job.id).latest_result()
    assert failure is not None and "BadJob" in str(failure.exc_string)
    assert kit.stream(client) == []


def test_a_forged_length_of_the_image_does_not_fail_the_job(
    tiny: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python does not read a number of 5,000 digits."""
    (job_id,) = kit.submit(tiny, frame(PICTURES[0]))
    client.hset(keys.rq_job(job_id), "sortline_bytes", "9" * 5_000)
    monkeypatch.setattr(worker.tasks, "_loaded", (load_model(tiny), tiny))
    SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True)
    assert kit.fetch(client, job_id).get_status() == "finished"


def test_another_schema_version_is_refused_as_by_our_worker(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    kit.forge(client, job_id, schema_version=2)
    SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True)
    assert "schema_version 2, and this worker reads 1 only" in kit.fetch(client, job_id).latest_result().exc_string


def test_a_file_that_was_replaced_is_rejected_as_by_our_worker(
    tiny: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job_id,) = kit.submit(tiny, frame(PICTURES[0]))
    client.set(keys.image(job_id), PICTURES[1])
    monkeypatch.setattr(worker.tasks, "_loaded", (load_model(tiny), tiny))
    SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True)
    assert kit.outcomes(client) == {job_id: "rejected"}


@pytest.mark.parametrize("own_s", [-3600.0, 0.0, 3600.0])
@pytest.mark.parametrize("camera_s", [-3600.0, 0.0, 3600.0])
def test_deadlines_hold_in_the_servers_time_as_in_our_worker(
    tiny: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, camera_s: float, own_s: float
) -> None:
    in_time, too_late = kit.submit(tiny, *map(frame, PICTURES[:2]))
    for job_id, after_s in ((in_time, 600.0), (too_late, -600.0)):
        captured_at = time.time() + camera_s - 1200
        kit.forge(client, job_id, captured_at=captured_at, deadline_at=captured_at + 1200 + after_s)
        client.hset(keys.rq_job(job_id), CLOCK_OFFSET_FIELD, camera_s)
        client.hset(keys.rq_job(job_id), "enqueued_at", format_rq_time(time.time() + camera_s - 60))
    monkeypatch.setattr(worker.tasks, "_loaded", (load_model(tiny), tiny))
    own = SimpleNamespace(time=lambda: time.time() + own_s, perf_counter=time.perf_counter)
    monkeypatch.setattr(worker.tasks, "time", own)
    monkeypatch.setattr(worker.tasks, "ServerClock", functools.partial(ServerClock, clock=own.time))
    SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True)
    assert kit.outcomes(client) == {in_time: "sorted", too_late: "expired"}
    for result in kit.stream(client):
        assert result.finished_at == pytest.approx(time.time(), abs=kit.PATIENCE_S)
        left_s = 600.0 if result.job_id == in_time else -600.0
        assert result.deadline_margin_ms == pytest.approx(left_s * 1000, abs=kit.PATIENCE_S * 1000)
        assert result.timings_ms.queue == pytest.approx(60_000, abs=kit.PATIENCE_S * 1000)
