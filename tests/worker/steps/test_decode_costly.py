"""Costly images are decoded by their own thread and process, so that other images don't wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis

from shared import keys
from shared.images.arrays import Pixels
from shared.images.decoding import decode_into
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame, picture
from worker.models.routing import Serving
from worker.pipeline import Pipeline
from worker.state.jobs import Lease
from worker.steps import keep_leases

LARGE_PX = 2000  # too many to be decoded beside others


class HeldDecoderProcess:
    """Stands in for the decoder process: it takes costly images, and decodes them once it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.taken = 0

    def decode_into(self, data: bytes, out: Pixels, **options: Any) -> None:
        self.taken += 1
        self.entered.set()
        assert self.opened.wait(kit.PATIENCE_S), "the test has not opened it"
        decode_into(data, out, **options)


@pytest.fixture
def held() -> Iterator[HeldDecoderProcess]:
    held = HeldDecoderProcess()
    yield held
    held.opened.set()


@pytest.fixture
def build(settings: Settings, held: HeldDecoderProcess) -> Callable[..., Pipeline]:
    """Builds a pipeline whose costly images wait for `held`."""

    def build(**options: Any) -> Pipeline:
        model = kit.model()
        decoder = replace(model.decoder, decoder_process=held)  # type: ignore[type-var]
        components = kit.pipeline_components(settings, Serving(replace(model, decoder=decoder)))
        return kit.pipeline(settings, components, **options)

    return build


def in_hand(run: Pipeline) -> str:
    """The job of the image that is being decoded. It needn't be the first, as two threads look for costly images."""
    job = run._flow.costly_jobs.in_hand
    assert job is not None
    return job.lease.job_id


def test_no_image_waits_for_a_costly_one(
    settings: Settings, client: redis.Redis, held: HeldDecoderProcess, build: Callable[..., Pipeline]
) -> None:
    """Live frames that come after costly images are sorted first, and later every job ends as usual."""
    run = build(burst=True)
    large = picture(200, size_px=LARGE_PX) + bytes(
        15_000_000
    )  # two of them fill the bound on bytes that wait to be decoded
    costly = kit.submit(settings, *[frame(large, queue="bulk") for _ in range(3)])
    refused = kit.submit(settings, frame(picture(size_px=8000), queue="bulk"))
    run.start()
    assert held.entered.wait(kit.PATIENCE_S)
    live = kit.submit(settings, *[frame(picture(tone)) for tone in range(20)])
    kit.wait_until(lambda: len(kit.outcomes(client)) == len(live), "the live frames are sorted")
    assert set(kit.outcomes(client)) == set(live)
    assert run._flow.batcher.is_empty, "a batch would wait for the costly image"
    held.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys([*live, *costly], "sorted") | dict.fromkeys(refused, "rejected")


def test_a_suspect_waits_for_the_costly_image_in_hand_and_live_does_not(
    settings: Settings, client: redis.Redis, held: HeldDecoderProcess, build: Callable[..., Pipeline]
) -> None:
    (suspect,) = kit.submit(settings, frame())
    client.lrem(keys.rq_queue("live"), 0, suspect)
    client.hset(keys.rq_job(suspect), "sortline_suspect", "SIGSEGV")
    costly = kit.submit(settings, *[frame(picture(size_px=LARGE_PX), queue="bulk") for _ in range(3)])
    run = build()
    run.start()
    kit.wait_until(lambda: len(run._flow.costly_jobs) == 2, "the other costly images wait")
    first = in_hand(run)
    client.rpush(keys.suspects("live"), suspect)
    live = kit.submit(settings, *[frame(picture(tone)) for tone in range(20)])
    kit.wait_until(lambda: set(kit.outcomes(client)) == set(live), "the live frames are sorted")
    kit.wait_until(lambda: run._flow.costly_jobs._is_held_back, "no other costly image is begun")
    assert client.llen(keys.suspects("live")) == 1
    held.opened.set()
    kit.wait_until(lambda: len(kit.outcomes(client)) == 24, "all are sorted")
    run.drain()
    kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys([*costly, suspect, *live], "sorted")
    assert list(kit.outcomes(client))[20:22] == [first, suspect]


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_gives_back_costly_jobs_that_it_has_not_begun(
    settings: Settings, client: redis.Redis, held: HeldDecoderProcess, build: Callable[..., Pipeline]
) -> None:
    job_ids = kit.submit(settings, *[frame(picture(size_px=LARGE_PX)) for _ in range(4)])
    run = build()
    run.start()
    assert held.entered.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: len(run._flow.costly_jobs) == 3, "the other costly images wait")
    first, others = in_hand(run), [job_id for job_id in job_ids if job_id != in_hand(run)]
    run.drain()
    kit.wait_until(lambda: client.llen("rq:queue:live") == len(others), "the others are given back")
    assert sorted(job_id.decode() for job_id in client.lrange("rq:queue:live", 0, -1)) == sorted(others)
    assert not run.ended.is_set()
    held.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == {first: "sorted"}
    assert {kit.fetch(client, job_id).retries_left for job_id in others} == {settings.max_attempts - 1}


@pytest.mark.slow
def test_costly_jobs_are_given_back_although_the_server_is_away_at_first(
    settings: Settings, client: redis.Redis, held: HeldDecoderProcess, build: Callable[..., Pipeline]
) -> None:
    """If the worker forgot them after it took them off its own queue, it would renew them for ever and never end."""
    job_ids = kit.submit(settings, *[frame(picture(size_px=LARGE_PX)) for _ in range(4)])
    run = build()
    release, is_away = run._components.keeper.release, threading.Event()

    def fail_once(leases: Sequence[Lease] | None = None) -> int:
        if leases and not is_away.is_set():
            is_away.set()
            raise redis.exceptions.ConnectionError("Connection closed by server.")
        return release(leases)

    run._components.keeper.release = fail_once  # type: ignore[method-assign]
    run.start()
    assert held.entered.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: len(run._flow.costly_jobs) == 3, "the other costly images wait")
    first, others = in_hand(run), [job_id for job_id in job_ids if job_id != in_hand(run)]
    run.drain()
    kit.wait_until(lambda: client.llen("rq:queue:live") == len(others), "the others are given back")
    assert is_away.is_set()
    held.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == {first: "sorted"}


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_gives_back_a_costly_job_that_takes_too_long(
    settings: Settings,
    client: redis.Redis,
    held: HeldDecoderProcess,
    build: Callable[..., Pipeline],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keep_leases, "COSTLY_STOP_S", 0.0)
    (job_id,) = kit.submit(settings, frame(picture(size_px=LARGE_PX)))
    run = build()
    run.start()
    assert held.entered.wait(kit.PATIENCE_S)
    run.drain()
    assert run.ended.wait(kit.PATIENCE_S), "the worker waits for the image"
    assert client.lrange("rq:queue:live", 0, -1) == [job_id.encode()]
    held.opened.set()
    assert run.supervisor.join(kit.PATIENCE_S)
    assert kit.outcomes(client) == {}
    assert run._flow.batcher.is_empty


def test_a_costly_job_that_another_worker_has_taken_over_is_not_decoded(
    settings: Settings, client: redis.Redis, held: HeldDecoderProcess, build: Callable[..., Pipeline]
) -> None:
    kit.submit(settings, *[frame(picture(size_px=LARGE_PX)) for _ in range(2)])
    run = build()
    run.start()
    assert held.entered.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: len(run._flow.costly_jobs) == 1, "the second one waits")
    first = in_hand(run)
    (lost,) = [lease for lease in run._flow.inflight.held() if lease.job_id != first]
    run._flow.inflight.drop_lost([lost])
    held.opened.set()
    kit.wait_until(lambda: kit.outcomes(client) == {first: "sorted"}, "the first one is sorted")
    kit.wait_until(lambda: not len(run._flow.costly_jobs), "the second one is taken")
    run.drain()
    kit.finish(run)
    assert held.taken == 1
