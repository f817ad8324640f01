"""When the claim step takes suspects: with the real claimer, and a clock of its own."""

from __future__ import annotations

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from worker.rq.claimer import Claim, Claimer
from worker.state.inflight import Inflight
from worker.steps.suspects import POLL_S, SuspectClaims

NOTHING = Claim([], suspended=False)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountingClaimer(Claimer):
    """Counts how often it asks whether suspects wait."""

    polls = 0

    def suspects_wait(self) -> bool:
        self.polls += 1
        return super().suspects_wait()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def claimer(settings: Settings, client: redis.Redis) -> CountingClaimer:
    return CountingClaimer(client, worker="w1", queues=settings.queue_names, lease_s=10)


@pytest.fixture
def claims(claimer: CountingClaimer, clock: Clock) -> SuspectClaims:
    return SuspectClaims(claimer, monotonic=clock)


@pytest.fixture
def two(settings: Settings, client: redis.Redis) -> list[str]:
    """Two suspects."""
    kit.submit(settings, frame(), frame())
    kit.claimer(settings, worker="dead").claim(2)
    keeper = kit.keeper(settings, Inflight(), worker="w2")
    keeper.take_back_from("dead", crash="SIGSEGV")
    assert keeper.reap() == (2, [])
    return [job_id.decode() for job_id in client.lrange(keys.suspects("live"), 0, -1)]


def taken(claim: Claim | None) -> list[str]:
    return [] if claim is None else [job.lease.job_id for job in claim.jobs]


def test_suspects_come_one_a_turn_while_nothing_else_is_in_hand(
    claims: SuspectClaims, clock: Clock, two: list[str]
) -> None:
    for job_id in two:
        claims.observe(NOTHING, is_idle=True)
        assert claims.has_turn
        assert taken(claims.claim()) == [job_id]
        assert claims.has_turn
        clock.now += 0.1
        assert claims.claim() is None
        assert not claims.has_turn
        claims.observe(NOTHING, is_idle=True)
        assert not claims.has_turn
        assert claims.idle_wait_s(0.5) == pytest.approx(0.1)
        clock.now += 0.1
    claims.observe(NOTHING, is_idle=True)
    assert not claims.has_turn
    assert claims.idle_wait_s(0.5) == 0.5


def test_a_busy_worker_stops_claiming_for_them_too(claims: SuspectClaims, clock: Clock, two: list[str]) -> None:
    claims.observe(Claim([kit.claimed()], suspended=False), is_idle=False)
    assert claims.has_turn
    clock.now += 0.5  # it finishes what it holds
    assert [taken(claims.claim()) for _ in range(3)] == [[two[0]], [two[1]], []]
    assert not claims.has_turn
    claims.observe(Claim([kit.claimed()], suspended=False), is_idle=False)
    assert not claims.has_turn


def test_where_there_are_none_the_server_is_asked_now_and_then(
    claims: SuspectClaims, claimer: CountingClaimer, clock: Clock
) -> None:
    """And never stops for them."""
    for _ in range(100):
        claims.observe(Claim([kit.claimed()], suspended=False), is_idle=False)
        assert not claims.has_turn
        clock.now += POLL_S / 10
    assert claimer.polls == 10


def test_a_suspended_worker_takes_none(claims: SuspectClaims, two: list[str]) -> None:
    claims.observe(Claim([], suspended=True), is_idle=True)
    assert not claims.has_turn


def test_a_suspect_that_comes_with_another_claim_is_alone_in_hand_too(
    client: redis.Redis, claims: SuspectClaims, claimer: CountingClaimer, two: list[str]
) -> None:
    """The answer of the call that claimed it was lost, and no other suspect waits."""
    late = claimer.claim_suspect()
    client.delete(keys.suspects("live"))
    claims.observe(late, is_idle=True)
    assert claims.has_turn
