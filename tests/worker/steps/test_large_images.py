"""An image over `max_image_bytes`, or job data longer than any of Sortline's, is refused without fetching it."""

from __future__ import annotations

import pytest
import redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer

import worker.tasks
from shared import keys
from shared.errors import BadJob
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame, picture
from worker.steps.admit import MAX_CALL_BYTES, admit

IMAGE = picture(200)
FORGED_BYTES = 50_000


@pytest.fixture
def limited(settings: Settings) -> Settings:
    """Settings of a worker that accepts `IMAGE`, but nothing longer."""
    return settings.model_copy(update={"max_image_bytes": len(IMAGE)})


def forge(settings: Settings, client: redis.Redis) -> tuple[str, list[str]]:
    """Submit three jobs, and replace the image of the second by one that no producer would send."""
    job_ids = kit.submit(settings, *[frame(IMAGE, frame_id=number) for number in range(3)])
    client.set(keys.image(job_ids[1]), bytes(FORGED_BYTES), ex=60)
    return job_ids[1], job_ids


def bytes_sent(client: redis.Redis) -> int:
    """What the server has sent to its clients so far."""
    return int(client.info("stats")["total_net_output_bytes"])


def test_the_image_is_not_fetched_and_the_claimed_job_says_why(limited: Settings, client: redis.Redis) -> None:
    forged, _ = forge(limited, client)
    claimer = kit.claimer(limited)
    claim = claimer.claim(10)
    before = bytes_sent(client)
    assert claimer.images(claim.jobs) == [IMAGE, None, IMAGE]
    assert bytes_sent(client) - before < FORGED_BYTES
    assert [job.refusal is not None for job in claim.jobs] == [False, True, False]
    assert claim.jobs[1].lease.job_id == forged


def test_no_image_is_requested_if_all_are_too_large(limited: Settings, client: redis.Redis) -> None:
    _, job_ids = forge(limited, client)
    for job_id in job_ids:
        client.set(keys.image(job_id), bytes(FORGED_BYTES), ex=60)
    claimer = kit.claimer(limited)
    assert claimer.images(claimer.claim(10).jobs) == [None] * 3


def test_a_job_with_too_much_data_is_claimed_without_its_data(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame(IMAGE, frame_id=number) for number in range(3)])
    client.hset(keys.rq_job(job_ids[1]), "data", bytes(MAX_CALL_BYTES + 1))
    claim = kit.claimer(settings).claim(10)
    assert [job.data is None for job in claim.jobs] == [False, True, False]
    with pytest.raises(BadJob, match="more than 100,000 bytes"):
        admit(claim.jobs[1], max_attempts=3)


def test_the_image_is_rejected_and_the_rest_of_the_batch_is_sorted(limited: Settings, client: redis.Redis) -> None:
    forged, job_ids = forge(limited, client)
    kit.run_burst(limited)
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted") | {forged: "rejected"}
    (rejected,) = [result for result in kit.stream(client) if result.outcome == "rejected"]
    assert rejected.error == f"50,000 bytes, the limit is {len(IMAGE)} (max_image_bytes)."
    assert client.exists(keys.image(forged)) == 0


def test_a_plain_rq_worker_does_not_fetch_the_image_either(
    limited: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, own_signals: None
) -> None:
    forged, job_ids = forge(limited, client)
    monkeypatch.setattr(worker.tasks, "_loaded", (kit.loaded_model(limited, kit.ToneEngine()), limited))
    before = bytes_sent(client)
    SimpleWorker(["live"], connection=client, serializer=JSONSerializer).work(burst=True)
    assert bytes_sent(client) - before < FORGED_BYTES
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted") | {forged: "rejected"}
