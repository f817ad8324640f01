"""Suspects in a running pipeline: sorted alone, and answered with the reason once they are given up."""

from __future__ import annotations

import time

import redis
from rq.registry import FailedJobRegistry

from shared import keys
from shared.jobs import MAX_CRASHES
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import Gate, ToneEngine, frame, picture
from tests.worker.rq.kit import CRASH, claim, claim_suspect, crash
from worker.state.inflight import Inflight

SUSPICIOUS = 77  # the tone of suspects


def test_suspects_are_sorted_alone_while_others_wait(settings: Settings, client: redis.Redis) -> None:
    """The worker holds no other job meanwhile: if it crashed, the cause would be known."""
    small = settings.model_copy(update={"max_batch": 4})
    job_ids = kit.submit(small, *[frame(picture(SUSPICIOUS)) for _ in range(5)])
    claim(small)
    assert crash(small) == (5, [])
    others = kit.submit(small, *[frame() for _ in range(40)])
    held: list[int] = []

    def look(batch: kit.Pixels) -> None:
        if (batch[..., 0] == SUSPICIOUS).any():
            held.append(client.zcard(keys.rq_wip("live")))

    kit.run_burst(small, ToneEngine(look), worker="w3")
    assert held == [1] * 5
    assert kit.outcomes(client) == dict.fromkeys([*job_ids, *others], "sorted")
    assert {result.attempt for result in kit.stream(client) if result.job_id in job_ids} == {2}


def test_a_burst_does_not_end_between_two_suspects(settings: Settings, client: redis.Redis) -> None:
    """After a long turn the worker rests and looks idle, although a suspect still waits."""
    job_ids = kit.submit(settings, *[frame() for _ in range(3)])
    claim(settings)
    assert crash(settings) == (3, [])
    kit.run_burst(settings, ToneEngine(lambda batch: time.sleep(0.1)), worker="w3")
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")


def test_an_idle_worker_takes_all_suspects(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame() for _ in range(5)])
    claim(settings)
    run = kit.pipeline(settings, kit.pipeline_components(settings, ToneEngine(), worker="w2"))
    run.start()
    assert crash(settings, by="w3") == (5, [])
    kit.wait_until(lambda: len(kit.stream(client)) == 5, "all are sorted")
    run.drain()
    kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")


def test_a_job_that_is_given_up_is_never_given_back(settings: Settings, client: redis.Redis) -> None:
    """Otherwise it would be tried a fourth time. If it isn't answered, the next reap returns it again."""
    (job_id,) = kit.submit(settings, frame())
    claim(settings)
    crash(settings)
    inflight = Inflight()
    for _ in range(MAX_CRASHES - 1):
        claim_suspect(settings)
        keeper = kit.keeper(settings, inflight, worker="w2")
        keeper.take_back_from("w1", crash=CRASH)
        _, given_up = keeper.reap()
    assert [job.lease.job_id for job in given_up] == [job_id]
    assert keeper.release() == 0
    assert inflight.held() == []
    assert client.llen(keys.suspects("live")) == client.llen(keys.rq_queue("live")) == 0
    _, given_up = kit.keeper(settings, Inflight(), worker="w3").reap()
    assert [job.lease.job_id for job in given_up] == [job_id]


def test_a_worker_with_a_suspect_in_hand_can_be_told_to_stop(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    claim(settings)
    crash(settings)
    gate = Gate()
    run = kit.pipeline(settings, kit.pipeline_components(settings, ToneEngine(gate), worker="w2"))
    run.start()
    assert gate.entered.wait(kit.PATIENCE_S)
    kit.submit(settings, frame())
    run.drain()
    gate.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == {job_id: "sorted"}


def test_a_job_that_crashed_three_workers_fails_with_the_reason(settings: Settings, client: redis.Redis) -> None:
    poison, mate = kit.submit(settings, frame(), frame())
    claim(settings)
    crash(settings)
    for _ in range(MAX_CRASHES - 1):
        client.lrem(keys.suspects("live"), 0, mate)
        claim_suspect(settings)
        crash(settings)
    claim_suspect(settings)
    client.rpush(keys.suspects("live"), mate)
    components = kit.pipeline_components(settings, ToneEngine(), worker="w2")
    components.keeper.take_back_from("w1", crash=CRASH)
    run = kit.pipeline(settings, components)
    run.start()
    kit.wait_until(lambda: len(kit.stream(client)) == 2, "both are answered")
    run.drain()
    kit.finish(run)
    results = {result.job_id: result for result in kit.stream(client)}
    assert results[mate].outcome == "sorted"
    assert (results[poison].outcome, results[poison].attempt) == ("failed", 2 + MAX_CRASHES)
    assert results[poison].error == (
        f"Quarantined: crashed or hung the worker {MAX_CRASHES} times while nothing else was in hand: {CRASH}"
    )
    assert FailedJobRegistry("live", connection=client).get_job_ids() == [poison]
