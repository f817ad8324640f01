"""The claim script, and the tokens that wake waiting workers, on a real server, through the Python that calls them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis

from shared import keys
from shared.server.connection import connect
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame, picture
from tests.worker.rq.kit import claim, finished_job, ids, leases, queued, server_now
from worker.rq.claimer import Claim, Claimer
from worker.rq.leases import LeaseKeeper
from worker.state.inflight import Inflight
from worker.state.jobs import Disposition
from worker.steps.admit import admit

# claim ──────────────────────────────────────────────────────────────────────────────────────────────


def test_claims_urgent_queues_first_and_each_in_order(settings: Settings, client: redis.Redis) -> None:
    bulk = kit.submit(settings, *[frame(queue="bulk") for _ in range(3)])
    live = kit.submit(settings, *[frame() for _ in range(3)])
    assert ids(claim(settings, limit=4)) == [*live, bulk[0]]
    assert queued(client, "bulk") == bulk[1:]


def test_claims_no_more_than_asked(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame() for _ in range(5)])
    assert ids(claim(settings, limit=2)) == job_ids[:2]
    assert queued(client) == job_ids[2:]
    assert set(leases(client)) == set(job_ids[:2])


def test_claims_no_more_image_bytes_than_fit(settings: Settings, client: redis.Redis) -> None:
    image = picture()
    job_ids = kit.submit(settings, *[frame(image) for _ in range(6)], frame(image, queue="bulk"))
    claimed = kit.claimer(settings).claim(100, max_bytes=2 * len(image) + 1)
    assert ids(claimed.jobs) == job_ids[:3]
    assert queued(client) == job_ids[3:6]
    assert queued(client, "bulk") == job_ids[6:]
    assert set(leases(client)) == set(job_ids[:3])
    assert {kit.fetch(client, job_id).get_status() for job_id in job_ids[3:]} == {"queued"}


def test_a_single_image_over_the_bound_is_claimed_nevertheless(settings: Settings) -> None:
    (job_id,) = kit.submit(settings, frame())
    assert ids(kit.claimer(settings).claim(100, max_bytes=1).jobs) == [job_id]


def test_returns_the_image_and_the_jobs_fields(settings: Settings) -> None:
    image = picture(9)
    (job_id,) = kit.submit(settings, frame(image, frame_id="f9", deadline_ms=500))
    before = time.time()
    claimed = kit.claimer(settings).claim(100)
    assert kit.claimer(settings).images(claimed.jobs) == [image]
    (job,) = claimed.jobs
    assert job.retries_left == 2
    assert (job.result_ttl_s, job.failure_ttl_s) == (str(settings.result_ttl_s), str(settings.failure_ttl_s))
    assert job.extras == ""
    assert job.enqueued_at is not None and before - 60 < job.enqueued_at <= job.lease.started_at
    admitted = admit(job, max_attempts=3)
    assert (admitted.job.job_id, admitted.job.frame_id, admitted.attempt) == (job_id, "f9", 1)


def test_suspension_is_reported_and_nothing_is_claimed(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, frame())
    client.set(keys.RQ_SUSPENDED, 1)
    assert kit.claimer(settings).claim(10) == Claim([], suspended=True)
    assert queued(client) == job_ids


def test_deleted_jobs_are_skipped(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame() for _ in range(4)])
    client.delete(keys.rq_job(job_ids[0]), keys.rq_job(job_ids[2]))
    assert ids(claim(settings, limit=2)) == [job_ids[1], job_ids[3]]
    assert queued(client) == []
    assert not client.exists(keys.rq_job(job_ids[0]))


def test_very_many_deleted_jobs_are_skipped_in_parts(settings: Settings, client: redis.Redis) -> None:
    """If one call skipped all of them, the server would serve nobody else meanwhile."""
    kit.submit(settings, frame())
    client.lpush(keys.rq_queue("live"), *(f"deleted-{number}" for number in range(25_000)))
    assert kit.claimer(settings).claim(10) == Claim([], suspended=False, cut_short=True)
    assert len(claim(settings)) == 1


def test_a_burst_does_not_end_at_deleted_jobs(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame())
    client.lpush(keys.rq_queue("live"), *(f"deleted-{number}" for number in range(25_000)))
    kit.run_burst(settings)
    assert list(kit.outcomes(client).values()) == ["sorted"]


def test_a_job_listed_twice_is_claimed_once(settings: Settings, client: redis.Redis) -> None:
    """RQ's own clean-up and ours may both put an abandoned job back."""
    (job_id,) = kit.submit(settings, frame())
    client.rpush(keys.rq_queue("live"), job_id)
    jobs = claim(settings)
    assert ids(jobs) == [job_id]
    assert kit.finisher(settings).finish([finished_job(settings, job) for job in jobs]) == [True]
    client.rpush(keys.rq_queue("live"), job_id)
    assert claim(settings) == []
    assert kit.outcomes(client) == {job_id: "sorted"}


def test_leases_count_from_the_servers_clock(settings: Settings, client: redis.Redis) -> None:
    """A worker whose clock is a day off neither keeps its leases for a day nor loses them at once."""
    (job_id,) = kit.submit(settings, frame())
    wrong = Claimer(client, worker="w1", queues=["live"], lease_s=10, clock=lambda: time.time() - 86400)
    before = server_now(client)
    (job,) = wrong.claim(1).jobs
    assert before + 10 <= leases(client)[job_id] <= server_now(client) + 10
    inflight = Inflight()
    inflight.add([job.lease])
    keeper = LeaseKeeper(
        client,
        worker="w1",
        queues=["live"],
        lease_s=30,
        max_losses=20,
        inflight=inflight,
        clock=lambda: time.time() + 86400,
    )
    assert keeper.reap() == (0, [])
    before = server_now(client)
    assert keeper.renew() == []
    assert before + 30 <= leases(client)[job_id] <= server_now(client) + 30


# wakeup ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def waiting(settings: Settings) -> Iterator[threading.Event]:
    """An event that is set when a waiting worker wakes. Without a token it wakes only after the test has given up."""
    woken = threading.Event()
    client = connect(settings.redis_url, socket_timeout_s=4 * kit.PATIENCE_S)

    def wait() -> None:
        Claimer(client, worker="w1", queues=settings.queue_names, lease_s=settings.lease_s).wait(2 * kit.PATIENCE_S)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    yield woken
    client.rpush(keys.wakeup("live"), "1")  # so that a failed test doesn't have to wait
    thread.join(kit.PATIENCE_S)
    assert not thread.is_alive()


def test_a_waiting_worker_wakes_on_submit(settings: Settings, client: redis.Redis, waiting: threading.Event) -> None:
    kit.wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the worker waits")
    assert not waiting.is_set()
    kit.submit(settings, frame())
    assert waiting.wait(kit.PATIENCE_S), "the worker slept through the submit"


def test_there_is_no_wakeup_token_when_queues_are_empty(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, *[frame() for _ in range(5)])
    assert client.llen(keys.wakeup("live")) == 5
    claim(settings)
    assert not client.exists(keys.wakeup("live"))


def test_a_wakeup_token_stays_while_work_is_left(settings: Settings, client: redis.Redis) -> None:
    """The token that woke this worker is used up; another worker must not have to wait for the next submit."""
    kit.submit(settings, *[frame() for _ in range(5)])
    client.delete(keys.wakeup("live"))
    claim(settings, limit=2)
    assert client.llen(keys.wakeup("live")) == 1


def test_a_job_that_goes_back_to_its_queue_adds_a_wakeup_token(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame())
    kit.finisher(settings).finish([finished_job(settings, job, Disposition.RETRY) for job in claim(settings)])
    assert client.llen(keys.wakeup("live")) == 1
