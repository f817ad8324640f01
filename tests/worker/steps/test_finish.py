"""The finish step, one round at a time: what is written and counted, and what is kept while Redis is unavailable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import pytest
import redis

from shared.errors import BadJob, EngineFailed
from shared.settings import Settings
from tests.worker import kit, step_inputs
from tests.worker.kit import ToneEngine, frame
from tests.worker.rq.kit import claim, expire, finished_job, queued
from tests.worker.step_inputs import A_MODEL
from torture.server.proxy import Proxy, proxy_to
from worker.observe.supervisor import StageThread
from worker.pipeline import Pipeline, PipelineComponents
from worker.rq.finisher import Finisher
from worker.state.inflight import Inflight
from worker.state.jobs import AdmittedJob, ClaimedJob, Disposition, FinishedJob, Lease, StageTimings
from worker.steps.decide import Classified, Expired, Failed, Refused, decide
from worker.steps.finish import FINISH_MAX, FinishStep

Answer = Callable[[Sequence[FinishedJob]], list[bool]]


class FakeFinisher(Finisher):
    """Answers each round without a server, and notes which jobs it was given."""

    def __init__(self, answer: Answer = lambda batch: [True] * len(batch)) -> None:
        self.answer = answer
        self.rounds: list[list[str]] = []

    def finish(self, batch: Sequence[FinishedJob]) -> list[bool]:
        self.rounds.append([finished.claimed.lease.job_id for finished in batch])
        return self.answer(batch)


class Plant:
    """A pipeline of which only the finish step runs, one round at a time."""

    def __init__(self, settings: Settings, finisher: Finisher | None = None) -> None:
        self.components: PipelineComponents = kit.pipeline_components(settings, ToneEngine())
        self.run: Pipeline = kit.pipeline(settings, self.components)
        self.inflight = self.components.inflight
        self._thread = StageThread("finish", self.run.supervisor)
        self._step = FinishStep(self.run._flow, finisher or self.components.finisher, self.run.capacity)

    def hold(self, jobs: Sequence[ClaimedJob]) -> Sequence[ClaimedJob]:
        """Hold the leases of these jobs, as the claim step does."""
        self.inflight.add([job.lease for job in jobs])
        return jobs

    def hand_on(self, *finished: FinishedJob) -> None:
        """Hand these jobs to the finish step, in one batch."""
        self.run._flow.finished.put(list(finished))

    def finish(self) -> None:
        """Run one round."""
        self._step(self._thread)

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 if it has none with these labels."""
        return self.components.metrics.registry.get_sample_value(f"sortline_{name}", labels) or 0.0

    def ended(self, outcome: str) -> float:
        """How many jobs with this outcome were counted."""
        return self.count("jobs_total", line="l1", outcome=outcome)


# A job, not in Redis, that ended in each way.


def sorted_job(job_id: str) -> FinishedJob:
    admitted = step_inputs.admitted(job_id)
    return decide(Classified(admitted=admitted, model=A_MODEL, at=admitted.job.captured_at, probabilities=(0.9, 0, 0)))


def failed_job(job_id: str) -> FinishedJob:
    return failed(step_inputs.admitted(job_id))


def retried_job(job_id: str) -> FinishedJob:
    admitted = step_inputs.admitted(job_id)
    return failed(replace(admitted, claimed=replace(admitted.claimed, retries_left=1)))


def failed(admitted: AdmittedJob) -> FinishedJob:
    error = EngineFailed("out of order")
    return decide(Failed(admitted=admitted, model=A_MODEL, at=admitted.job.captured_at, error=error))


def refused_job(job_id: str) -> FinishedJob:
    return decide(Refused(claimed=step_inputs.claimed(job_id), error=BadJob("not ours")))


@pytest.fixture
def long(settings: Settings) -> Settings:
    """Settings with leases that run out during a test only if `expire` is called: it takes 1000 s off."""
    return settings.model_copy(update={"lease_s": 900})


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with proxy_to(redis_url) as proxy:
        yield proxy


@pytest.fixture
def through(long: Settings, proxy: Proxy) -> Settings:
    """Settings of a worker behind the proxy. The script is loaded already, so that each round is one EVALSHA."""
    kit.finisher(long).finish([])
    return long.model_copy(update={"redis_url": proxy.url})


# a round ────────────────────────────────────────────────────────────────────────────────────────────


def test_finished_jobs_are_written_and_counted_and_no_longer_held(long: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(long, *[frame() for _ in range(3)])
    plant = Plant(long)
    jobs = plant.hold(claim(long))
    plant.hand_on(*[finished_job(long, job) for job in jobs[:2]])
    plant.finish()
    assert kit.outcomes(client) == dict.fromkeys(job_ids[:2], "sorted")
    assert plant.inflight.held() == [jobs[2].lease]
    assert plant.ended("sorted") == 2
    assert plant.count("stage_seconds_count", stage="finish") == 1
    assert plant.count("leases_lost_total") == 0


def test_what_shows_how_much_the_worker_can_do_is_counted_by_what_it_cost(settings: Settings) -> None:
    """To answer an image from the cache costs less than the model, to expire it far less; failures show nothing."""
    plant = Plant(settings, FakeFinisher())
    admitted = step_inputs.admitted("j0")
    at, timings = admitted.job.captured_at, StageTimings(1.0, 1.0, 5.0)
    classified = Classified(admitted=admitted, model=A_MODEL, at=at, timings=timings, probabilities=(0.9, 0, 0))
    expired = Expired(admitted=admitted, model=A_MODEL, at=at, timings=StageTimings(1.0))
    others = [decide(expired), sorted_job("cached"), failed_job("j2"), retried_job("j3"), refused_job("j4")]
    plant.hand_on(decide(classified), decide(classified), *others)
    plant.finish()
    capacity, queue = plant.run.capacity, admitted.claimed.lease.queue
    assert (capacity._sorted, capacity._cached, capacity._expired) == ({queue: 2}, {queue: 1}, 1)
    assert capacity.has_expired


def test_a_worker_that_holds_nothing_is_idle(settings: Settings) -> None:
    plant = Plant(settings, FakeFinisher())
    plant.finish()
    idle_s = plant.run.capacity._idle_s
    assert idle_s > 0
    plant.inflight.add([step_inputs.claimed("j1").lease])
    plant.finish()
    assert plant.run.capacity._idle_s == idle_s


def test_a_round_without_jobs_calls_nothing(settings: Settings) -> None:
    finisher = FakeFinisher()
    plant = Plant(settings, finisher)
    plant.finish()
    assert finisher.rounds == []
    assert plant.count("stage_seconds_count", stage="finish") == 0


def test_a_round_takes_what_waits_but_at_most_one_batch_more_than_its_bound(settings: Settings) -> None:
    """The server is blocked while a round is written."""
    finisher = FakeFinisher()
    plant = Plant(settings, finisher)
    for start, count in ((0, FINISH_MAX - 1), (100, 3), (200, 2), (300, 1)):
        plant.hand_on(*[sorted_job(f"j{start + number}") for number in range(count)])
    plant.finish()
    plant.finish()
    assert [len(batch) for batch in finisher.rounds] == [FINISH_MAX + 2, 3]
    assert finisher.rounds[1] == ["j200", "j201", "j300"]


# leases lost while writing ──────────────────────────────────────────────────────────────────────────


def take_back(settings: Settings, client: redis.Redis, job: ClaimedJob) -> None:
    """Let the lease of this job run out, and another worker take the job back."""
    expire(client, job)
    assert kit.keeper(settings, Inflight(), worker="w2").reap() == (1, [])


def test_a_job_that_another_worker_has_taken_back_is_neither_written_nor_counted(
    long: Settings, client: redis.Redis
) -> None:
    lost, kept = kit.submit(long, frame(), frame())
    plant = Plant(long)
    jobs = plant.hold(claim(long))
    take_back(long, client, jobs[0])
    plant.hand_on(*[finished_job(long, job) for job in jobs])
    plant.finish()
    assert kit.outcomes(client) == {kept: "sorted"}
    assert queued(client) == [lost]
    assert plant.ended("sorted") == 1
    assert plant.count("leases_lost_total") == 1
    assert plant.inflight.held() == []


def test_a_loss_that_the_lease_thread_has_found_is_not_counted_twice(long: Settings, client: redis.Redis) -> None:
    kit.submit(long, frame())
    plant = Plant(long)
    (job,) = plant.hold(claim(long))
    take_back(long, client, job)
    assert plant.components.keeper.renew() == [job.lease]  # each that is returned here is counted by the lease step
    plant.hand_on(finished_job(long, job))
    plant.finish()
    assert plant.count("leases_lost_total") == 0
    assert plant.ended("sorted") == 0


def test_a_renewal_before_the_answer_has_come_finds_no_loss(long: Settings, client: redis.Redis) -> None:
    """The server has deleted the leases by then, since the jobs are written."""
    (job_id,) = kit.submit(long, frame())
    finisher, lost = kit.finisher(long), list[Lease]()

    def finish_and_renew(batch: Sequence[FinishedJob]) -> list[bool]:
        held = finisher.finish(batch)
        lost.extend(plant.components.keeper.renew())
        return held

    plant = Plant(long, FakeFinisher(finish_and_renew))
    (job,) = plant.hold(claim(long))
    plant.hand_on(finished_job(long, job))
    plant.finish()
    assert lost == []
    assert kit.outcomes(client) == {job_id: "sorted"}
    assert (plant.ended("sorted"), plant.count("leases_lost_total")) == (1, 0)


def test_only_jobs_that_are_still_ours_are_counted(settings: Settings) -> None:
    ours = [sorted_job("a"), failed_job("b"), retried_job("c"), refused_job("d")]
    lost = [sorted_job("e"), failed_job("f"), retried_job("g"), refused_job("h"), sorted_job("i")]
    plant = Plant(settings, FakeFinisher(lambda batch: [finished in ours for finished in batch]))
    plant.hold([finished.claimed for finished in (*ours, *lost)])
    plant.hand_on(*lost[:2], *ours, *lost[2:])
    plant.finish()
    assert (plant.ended("sorted"), plant.ended("failed")) == (1, 1)
    assert plant.count("retried_total") == 1
    assert plant.count("leases_lost_total") == len(lost)
    assert plant.inflight.held() == []


# Redis is unavailable ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_nothing_is_lost_or_doubled_if_redis_is_unavailable_in_the_middle(
    through: Settings,
    client: redis.Redis,
    proxy: Proxy,
    moment: Literal["before", "after"],
    rounds: int,
) -> None:
    """The connection ends before the server has the request, or after it has obeyed. Jobs that come later wait."""
    job_ids = kit.submit(through, *[frame() for _ in range(4)])
    plant = Plant(through)
    jobs = plant.hold(claim(through))
    first = [finished_job(through, jobs[0]), finished_job(through, jobs[1], Disposition.RETRY)]
    plant.hand_on(*first)
    for _ in range(2 * rounds):  # the client sends each request twice
        proxy.on(b"EVALSHA", moment, lambda: None, ends_connection=True)
    for _ in range(rounds):
        with pytest.raises(redis.exceptions.ConnectionError):
            plant.finish()
    assert plant.inflight.held() == [job.lease for job in jobs]
    assert (plant.ended("sorted"), plant.count("retried_total")) == (0, 0)
    plant.hand_on(*[finished_job(through, job) for job in jobs[2:]])

    plant.finish()
    assert kit.outcomes(client) == {job_ids[0]: "sorted"}
    assert queued(client) == [job_ids[1]]
    assert plant.inflight.held() == [job.lease for job in jobs[2:]]
    assert (plant.ended("sorted"), plant.count("retried_total")) == (1, 1)

    plant.finish()
    assert kit.outcomes(client) == dict.fromkeys([job_ids[0], *job_ids[2:]], "sorted")
    assert queued(client) == [job_ids[1]]
    assert plant.inflight.held() == []
    assert (plant.ended("sorted"), plant.count("retried_total")) == (3, 1)
    assert plant.count("leases_lost_total") == 0
