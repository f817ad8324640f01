"""Which queue's jobs are claimed when there is not room for all."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame
from worker.observe.supervisor import StageThread
from worker.pipeline import Pipeline
from worker.rq.claimer import Claim
from worker.state.jobs import ClaimedJob
from worker.state.latency_estimator import FINISH_MARGIN_S
from worker.steps.claim_limits import max_answered


@pytest.fixture
def small(settings: Settings) -> Settings:
    """A worker that holds at most six jobs of one queue, and two more of the most urgent one."""
    return settings.model_copy(update={"max_batch": 2})


@pytest.fixture
def run(small: Settings) -> Pipeline:
    """A pipeline of which only the claim step runs, one round at a time."""
    run = kit.pipeline(small, kit.pipeline_components(small, ToneEngine()))
    run._claim.may_begin.set()
    return run


@pytest.fixture
def claim(run: Pipeline) -> Callable[[], list[str]]:
    """A function that runs one round; it returns the queues of the jobs that the round claimed."""
    thread = StageThread("claim", run.supervisor)

    def once() -> list[str]:
        before = {lease.execution_id for lease in run._flow.inflight.held()}
        run._claim(thread)
        return [lease.queue for lease in run._flow.inflight.held() if lease.execution_id not in before]

    return once


def test_the_claim_takes_the_most_urgent_queue_first(small: Settings) -> None:
    kit.submit(small, *[frame(queue="bulk") for _ in range(4)], *[frame() for _ in range(3)])
    claimer = kit.claimer(small)
    assert [job.lease.queue for job in claimer.claim(5).jobs] == ["live"] * 3 + ["bulk"] * 2


def test_others_can_be_bounded_and_put_first(small: Settings) -> None:
    kit.submit(small, *[frame(queue="bulk") for _ in range(6)], *[frame() for _ in range(6)])
    claimer = kit.claimer(small)
    assert [job.lease.queue for job in claimer.claim(4, others_first=1).jobs] == ["bulk"] + ["live"] * 3
    assert [job.lease.queue for job in claimer.claim(9, max_others=2).jobs] == ["live"] * 3 + ["bulk"] * 2
    assert claimer.claim(9, max_others=0, others_first=1).jobs == []


def test_a_worker_full_of_bulk_has_room_for_live(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]]
) -> None:
    kit.submit(small, *[frame(queue="bulk") for _ in range(20)])
    assert [claim() for _ in range(5)] == [["bulk"] * 2] * 3 + [[]] * 2
    kit.submit(small, *[frame() for _ in range(5)])
    assert [claim() for _ in range(2)] == [["live"] * 2, []]
    run._flow.inflight.remove(run._flow.inflight.held()[:6])  # the bulk jobs are done
    assert [claim() for _ in range(3)] == [["live"] * 2, ["live", "bulk"], []]


def test_up_to_four_batches_of_waiting_costly_jobs_do_not_count_towards_the_bounds(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]]
) -> None:
    def find_costly(count: int) -> None:
        for _ in range(count):
            job = run._flow.encoded_jobs.take(0)
            assert job is not None
            run._flow.costly_jobs.put(job.claimed)

    kit.submit(small, *[frame(queue="bulk") for _ in range(60)])
    assert [len(claim()) for _ in range(4)] == [2, 2, 2, 0]
    find_costly(3)
    assert [len(claim()) for _ in range(3)] == [2, 1, 0]
    find_costly(4)
    assert [len(claim()) for _ in range(3)] == [2, 2, 0]
    find_costly(6)  # now all held jobs are costly: more than four batches
    assert [len(claim()) for _ in range(2)] == [0, 0]
    kit.submit(small, *[frame() for _ in range(20)])
    assert [claim() for _ in range(4)] == [["live"] * 2] * 4  # as if there were no costly jobs
    assert claim() == []


def test_a_suspect_that_comes_with_other_jobs_goes_back_to_be_claimed_alone(
    small: Settings, client: redis.Redis, run: Pipeline, claim: Callable[[], list[str]]
) -> None:
    """That happens if the answer to its own claim was lost, or if an older release's worker put it back."""
    suspect, other = kit.submit(small, frame(), frame())
    client.hset(keys.rq_job(suspect), "sortline_suspect", "SIGSEGV")
    claim()
    claim()
    assert client.lrange(keys.suspects("live"), 0, -1) == [suspect.encode()]
    assert [lease.job_id for lease in run._flow.inflight.held()] == [other]


def test_a_suspect_goes_back_even_if_the_server_is_away_meanwhile(
    small: Settings,
    client: redis.Redis,
    run: Pipeline,
    claim: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (suspect,) = kit.submit(small, frame())
    client.hset(keys.rq_job(suspect), "sortline_suspect", "SIGSEGV")

    def fail(leases: object) -> NoReturn:
        raise redis.exceptions.ConnectionError("Connection closed by server.")

    with monkeypatch.context() as patched, pytest.raises(redis.exceptions.ConnectionError):
        patched.setattr(run._claim, "_give_back", fail)
        claim()
        claim()
    run.drain()
    assert not run._claim.is_finished
    claim()
    assert client.lrange(keys.suspects("live"), 0, -1) == [suspect.encode()]
    assert run._claim.is_finished


def test_the_other_queues_share_stays_due_while_there_is_no_room_for_them(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]]
) -> None:
    kit.submit(small, *[frame(queue="bulk") for _ in range(20)])
    assert [claim() for _ in range(3)] == [["bulk"] * 2] * 3
    run._claim._share._due = 1.0
    kit.submit(small, *[frame() for _ in range(20)])
    assert claim() == ["live"] * 2
    run._flow.inflight.remove(run._flow.inflight.held()[:6])
    assert claim() == ["bulk", "live"]


def test_the_bound_for_live_alone_is_the_same_as_for_bulk_alone(
    small: Settings, claim: Callable[[], list[str]]
) -> None:
    kit.submit(small, *[frame() for _ in range(20)])
    assert [len(claim()) for _ in range(4)] == [2, 2, 2, 0]


def test_bulk_keeps_its_share_while_live_never_runs_empty(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]]
) -> None:
    kit.submit(small, *[frame(queue="bulk") for _ in range(20)], *[frame() for _ in range(220)])
    claimed: Counter[str] = Counter()
    for _ in range(100):
        claimed.update(claim())
        run._flow.inflight.remove(run._flow.inflight.held())
    assert claimed.total() == 200
    assert 8 <= claimed["bulk"] <= 10, "bulk's share is a twentieth"


def test_no_share_is_saved_up_while_live_runs_empty(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]]
) -> None:
    for _ in range(30):
        kit.submit(small, frame())
        assert claim() == ["live"]
        run._flow.inflight.remove(run._flow.inflight.held())
    kit.submit(small, frame(queue="bulk"), *[frame() for _ in range(2)])
    assert claim() == ["live"] * 2


# jobs that can't be answered in time ───────────────────────────────────────────────────────────────


def set_apart(run: Pipeline, monkeypatch: pytest.MonkeyPatch, *, limit: int) -> list[float]:
    """Let the claims set all their jobs with deadlines apart, as the server does; returns the seconds asked for."""
    claimer, asked = run._components.claimer, []
    claim_all = claimer.claim

    def claim(count: int, *, needs_s: float = 0.0, **bounds: int) -> Claim:
        asked.append(needs_s)
        found = claim_all(limit, **bounds)
        doomed = [job for job in found.jobs if b'deadline_at":null' not in zlib.decompress(job.data or b"")]
        return replace(found, jobs=[job for job in found.jobs if job not in doomed], expired=doomed)

    monkeypatch.setattr(claimer, "claim", claim)
    return asked


def test_jobs_set_apart_are_answered_without_taking_a_place(
    small: Settings, client: redis.Redis, run: Pipeline, claim: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hopeless = kit.submit(small, *[frame(deadline_ms=60_000) for _ in range(150)])
    (fine,) = kit.submit(small, frame())
    set_apart(run, monkeypatch, limit=200)
    assert len(claim()) == 151
    assert run._flow.inflight.count_of("live") == 1
    assert run._flow.inflight.wait_below(2, 0.0) == 1
    assert len(run._flow.encoded_jobs) == 1 and run._flow.batcher.expected_count == 1
    finished = [run._flow.finished.get_nowait() for _ in range(3)]
    assert [len(jobs) for jobs in finished] == [64, 64, 22], "each is one script call"
    results = [job.result for jobs in finished for job in jobs]
    assert {result.job_id for result in results if result} == set(hopeless)
    assert {result.outcome.value for result in results if result} == {"expired"}
    assert all(result and result.error and result.error.startswith("not started: ") for result in results)
    assert fine in {lease.job_id for lease in run._flow.inflight.held()}


def test_a_claim_of_nothing_but_hopeless_jobs_is_followed_by_the_next_at_once(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.submit(small, *[frame(deadline_ms=60_000) for _ in range(4)])
    set_apart(run, monkeypatch, limit=4)

    def never(*arguments: object, **keywords: object) -> NoReturn:
        pytest.fail("the worker waits although jobs may be there")

    monkeypatch.setattr(run._claim, "_wait", never)
    assert len(claim()) == 4


def test_no_more_is_claimed_while_many_results_are_not_written(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.steps.claim.IDLE_WAIT_S", 0.01)
    most = max_answered(small.max_batch)
    kit.submit(small, *[frame(deadline_ms=60_000) for _ in range(most + 1)])
    set_apart(run, monkeypatch, limit=most)
    assert [len(claim()) for _ in range(2)] == [most, 0]
    run._flow.inflight.remove(run._flow.inflight.held()[:1])
    assert len(claim()) == 1


def test_a_burst_answers_hopeless_jobs_too(
    small: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopeless = kit.submit(small, *[frame(deadline_ms=60_000) for _ in range(9)])
    run = kit.pipeline(small, kit.pipeline_components(small, ToneEngine()), burst=True)
    set_apart(run, monkeypatch, limit=3)
    run.start()
    kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys(hopeless, "expired")
    assert not client.keys("sortline:image:*")


def test_the_claim_asks_for_what_a_job_needs(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = run._flow.active_models.current.stable.cost
    cost.observe(1, 0.030)
    asked = set_apart(run, monkeypatch, limit=1)
    with run._flow.latency.running(cost, images=1):
        claim()
    assert 0.035 < asked[0] <= 0.030 + 0.030 + FINISH_MARGIN_S + 0.001


def test_a_slow_engine_is_given_few_jobs(run: Pipeline, claim: Callable[[], list[str]], small: Settings) -> None:
    cost = run._flow.active_models.current.stable.cost
    cost.observe(1, 0.500)
    cost.observe(2, 1.000)
    kit.submit(small, *[frame() for _ in range(20)])
    assert [len(claim()) for _ in range(3)] == [2, 1, 0], "one runs, one is next, one is decoded"


def test_live_waits_neither_for_bulk_nor_for_what_is_set_apart_and_only_its_wait_is_measured(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, steps = [0.0], []
    images, expire = run._components.claimer.images, run._claim._expire

    def fetch(jobs: Sequence[ClaimedJob]) -> list[bytes | None]:
        now[0] += 0.010 if jobs[0].lease.queue == "live" else 5.0
        steps.append(jobs[0].lease.queue)
        return images(jobs)

    def answer(jobs: Sequence[ClaimedJob], *, needs_s: float) -> None:
        now[0] += 3.0
        steps.append("set apart")
        expire(jobs, needs_s=needs_s)

    monkeypatch.setattr(run._claim, "_monotonic", lambda: now[0])
    monkeypatch.setattr(run._components.claimer, "images", fetch)
    monkeypatch.setattr(run._claim, "_expire", answer)
    set_apart(run, monkeypatch, limit=9)
    kit.submit(small, frame(deadline_ms=60_000), frame(), frame(queue="bulk"))
    assert len(claim()) == 3
    assert steps == ["live", "set apart", "bulk"]
    claimed = run._flow.latency._claim
    assert (claimed.urgent.mean, claimed.others.mean) == (pytest.approx(0.010), pytest.approx(5.0))


def test_jobs_set_apart_are_answered_even_if_the_server_goes_away(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(jobs: object) -> NoReturn:
        raise redis.exceptions.ConnectionError("Connection closed by server.")

    kit.submit(small, frame(deadline_ms=60_000), frame())
    set_apart(run, monkeypatch, limit=9)
    with monkeypatch.context() as patched, pytest.raises(redis.exceptions.ConnectionError):
        patched.setattr(run._components.claimer, "images", fail)
        claim()
    assert len(run._flow.finished.get_nowait()) == 1
    claim()
    assert len(run._flow.encoded_jobs) == 1, "the other one's image is fetched later"


def test_the_budget_of_a_line_is_known_even_if_all_its_images_are_set_apart(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.submit(small, frame(deadline_ms=60_000))
    set_apart(run, monkeypatch, limit=1)
    claim()
    assert run._flow.latency._budget.seconds == pytest.approx(60.0)


def test_live_is_claimed_although_the_worker_holds_more_bulk_than_it_may_by_now(
    small: Settings, run: Pipeline, claim: Callable[[], list[str]]
) -> None:
    kit.submit(small, *[frame(queue="bulk") for _ in range(20)])
    assert [len(claim()) for _ in range(4)] == [2, 2, 2, 0]
    cost = run._flow.active_models.current.stable.cost
    cost.observe(1, 0.500)
    cost.observe(2, 1.000)
    kit.submit(small, *[frame() for _ in range(5)])
    assert [claim() for _ in range(2)] == [["live"] * 2, []]
