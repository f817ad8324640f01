"""When the claim step takes suspects: with the real claimer, and a clock of its own."""

from __future__ import annotations

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.kit import ManualClock
from tests.worker import kit, step_inputs
from tests.worker.kit import frame
from worker.rq.claimer import Claim, Claimer
from worker.state.costly_jobs import CostlyJobs
from worker.state.inflight import Inflight
from worker.steps.suspects import POLL_S, SuspectClaims

NOTHING = Claim([], suspended=False)


class CountingClaimer(Claimer):
    """Counts how often it asks whether suspects wait."""

    polls = 0

    def suspects_wait(self) -> bool:
        self.polls += 1
        return super().suspects_wait()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def claimer(settings: Settings, client: redis.Redis) -> CountingClaimer:
    return CountingClaimer(client, worker="w1", queues=settings.queue_names, lease_s=10)


@pytest.fixture
def costly(settings: Settings) -> CostlyJobs:
    return CostlyJobs(settings.queue_names, others_share=0.05)


@pytest.fixture
def claims(claimer: CountingClaimer, costly: CostlyJobs, clock: ManualClock) -> SuspectClaims:
    return SuspectClaims(claimer, costly, monotonic=clock)


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


def test_an_idle_worker_claims_one_suspect_a_turn(claims: SuspectClaims, clock: ManualClock, two: list[str]) -> None:
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


def test_a_busy_worker_stops_claiming_other_jobs_for_a_turn(
    claims: SuspectClaims, clock: ManualClock, two: list[str]
) -> None:
    claims.observe(Claim([step_inputs.claimed()], suspended=False), is_idle=False)
    assert claims.has_turn
    clock.now += 0.5  # the worker finishes the jobs that it holds
    assert [taken(claims.claim()) for _ in range(3)] == [[two[0]], [two[1]], []]
    assert not claims.has_turn
    claims.observe(Claim([step_inputs.claimed()], suspended=False), is_idle=False)
    assert not claims.has_turn


def test_a_turn_waits_for_the_costly_image_in_hand_and_holds_back_the_next(
    claims: SuspectClaims, costly: CostlyJobs, two: list[str]
) -> None:
    """During a turn nothing else is claimed, so live frames would wait for the costly image."""
    others = [step_inputs.claimed(name) for name in ("costly-1", "costly-2")]
    for job in others:
        costly.put(job)
    assert costly.begin(0.0) == others[0]
    claims.observe(Claim([step_inputs.claimed()], suspended=False), is_idle=False)
    assert not claims.has_turn
    costly.end()
    assert costly.begin(0.0) is None
    claims.observe(Claim([step_inputs.claimed()], suspended=False), is_idle=False)
    assert claims.has_turn and claims.is_draining
    assert costly.take_all() == others[1:]  # the claim step gives them back
    assert taken(claims.claim()) == two[:1]
    assert not claims.is_draining
    costly.put(step_inputs.claimed("suspect"))
    assert costly.begin(0.0) is not None, "a suspect may be costly"


def test_costly_images_go_on_once_no_suspect_waits_any_more(
    client: redis.Redis, claims: SuspectClaims, costly: CostlyJobs, two: list[str]
) -> None:
    costly.put(step_inputs.claimed("costly-1"))
    assert costly.begin(0.0) is not None
    claims.observe(Claim([step_inputs.claimed()], suspended=False), is_idle=False)
    costly.end()
    client.delete(keys.suspects("live"))  # another worker has taken them
    claims.observe(Claim([step_inputs.claimed()], suspended=False), is_idle=False)
    assert not claims.has_turn
    costly.put(step_inputs.claimed("costly-2"))
    assert costly.begin(0.0) is not None


def test_without_suspects_the_server_is_asked_only_from_time_to_time(
    claims: SuspectClaims, claimer: CountingClaimer, clock: ManualClock
) -> None:
    """The worker doesn't stop claiming other jobs meanwhile."""
    for _ in range(100):
        claims.observe(Claim([step_inputs.claimed()], suspended=False), is_idle=False)
        assert not claims.has_turn
        clock.now += POLL_S / 10
    assert claimer.polls == 10


def test_a_suspended_worker_takes_no_suspects(claims: SuspectClaims, two: list[str]) -> None:
    claims.observe(Claim([], suspended=True), is_idle=True)
    assert not claims.has_turn
