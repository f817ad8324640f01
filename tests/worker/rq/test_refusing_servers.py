"""Servers that can't or mustn't write for a while: every script fails before it does anything, and works afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from shared import keys
from shared.server.embedded import embedded_server
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.rq.kit import claim, everything, finished_job, ids
from torture.server.proxy import proxy_to
from worker.rq.finisher import Finisher
from worker.state.inflight import Inflight
from worker.state.jobs import ClaimedJob, Disposition, FinishedJob, Lease

STEPS = ("claim", "finish", "renew", "release", "reap")


class Steps:
    """The steps of one worker, each with its own connection, which is already open."""

    def __init__(self, settings: Settings) -> None:
        self.inflight = Inflight()
        self._finisher = kit.finisher(settings)
        self._claimer = kit.claimer(settings)
        self._keepers = {name: kit.keeper(settings, self.inflight) for name in ("renew", "release", "reap")}
        for name in STEPS:
            self.inflight.add([Lease("live", "none", "e" * 32, 0.0)])  # without a lease, a step would send nothing
            self.call(name, [])
        self.inflight.remove(self.inflight.held())

    def call(self, name: str, batch: list[FinishedJob]) -> object:
        """Run one step's script."""
        match name:
            case "finish":
                return self._finisher.finish(batch)
            case "claim":
                return self._claimer.claim(10).jobs
            case _:
                return getattr(self._keepers[name], name)()


@pytest.fixture(scope="module")
def second_url() -> Iterator[str]:
    with embedded_server() as url:
        yield url


@pytest.mark.parametrize("step", STEPS)
def test_a_demoted_master_answers_nothing_from_old_data(
    settings: Settings, client: redis.Redis, second_url: str, step: str
) -> None:
    """It keeps its clients' connections, but doesn't have the leases of jobs that were claimed at the new master.

    If it answered, finish and renew would count every lease as lost, and the worker would discard the results.
    """
    with proxy_to(settings.redis_url) as proxy, redis.Redis.from_url(second_url) as second:
        second.flushall()
        there = settings.model_copy(update={"redis_url": second_url})
        steps = Steps(settings.model_copy(update={"redis_url": proxy.url}))
        client.replicaof("127.0.0.1", "1")  # never in sync
        try:
            proxy.target = second_url
            (job_id,) = kit.submit(there, frame())
            jobs = [] if step == "claim" else claim(there)
            steps.inflight.add([job.lease for job in jobs])
            batch = [finished_job(there, job) for job in jobs]
            before = everything(client)
            with pytest.raises(redis.exceptions.ReadOnlyError):
                steps.call(step, batch)
            assert everything(client) == before
            assert [lease.job_id for lease in steps.inflight.held()] == ids(jobs), "the worker has forgotten a job"
            answer = steps.call(step, batch)  # the client connects again, to the new master
        finally:
            client.replicaof("NO", "ONE")
        assert answer == {"finish": [True], "renew": [], "release": 1, "reap": (0, [])}.get(step, answer)
        if step == "finish":
            assert kit.outcomes(second) == {job_id: "sorted"}
        if step == "claim":
            assert ids(answer) == [job_id]  # type: ignore[arg-type]  # a claim gives jobs


@pytest.mark.parametrize("step", STEPS)
def test_a_server_without_its_replicas_answers_nothing(settings: Settings, client: redis.Redis, step: str) -> None:
    """Even if the script has nothing to write: its data may be older than another server's."""
    steps = Steps(settings)
    kit.submit(settings, frame())
    jobs = claim(settings)
    steps.inflight.add([job.lease for job in jobs])
    client.zremrangebyrank(keys.rq_wip("live"), 0, -1)
    client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(redis.exceptions.ResponseError, match="NOREPLICAS"):
            steps.call(step, [finished_job(settings, job) for job in jobs])
    finally:
        client.config_set("min-replicas-to-write", 0)
    assert [lease.job_id for lease in steps.inflight.held()] == ids(jobs)


@pytest.mark.parametrize("rule", ["~rq:*", "~sortline:*", "~rq:w* ~sortline:*", "~rq:* ~sortline:never-written"])
def test_a_worker_without_permission_keeps_its_results_until_it_has_permission(
    settings: Settings, client: redis.Redis, restricted: Callable[[str], None], rule: str
) -> None:
    """The jobs aren't to blame, so none is given up, and no result is written twice."""
    kit.submit(settings, frame(), frame())
    url = settings.redis_url.replace("redis://", "redis://w:secret@")
    batch = [finished_job(settings, job) for job in claim(settings)]
    finisher = kit.finisher(settings.model_copy(update={"redis_url": url}))
    restricted(rule)
    with pytest.raises(redis.exceptions.ResponseError, match="ACL failure"):
        finisher.finish(batch)
    restricted("~*")
    assert finisher.finish(batch) == [True, True]
    assert len(kit.outcomes(client)) == 2


@pytest.mark.parametrize("command", ["sadd", "zadd", "ltrim", "hset", "expire", "persist"])
def test_a_claim_that_lacks_a_permission_gives_no_job_to_two_workers(
    settings: Settings, client: redis.Redis, restricted: Callable[[str], None], command: str
) -> None:
    """If the script took a lease but left the job in the list, another worker would claim the job too."""
    job_ids = kit.submit(settings, *[frame() for _ in range(4)])
    url = settings.redis_url.replace("redis://", "redis://w:secret@")
    claimer = kit.claimer(settings.model_copy(update={"redis_url": url}))
    restricted(f"~* -{command}")
    with pytest.raises(redis.exceptions.ResponseError, match="ACL failure"):
        claimer.claim(3)
    restricted("~* +@all")
    others = kit.claimer(settings, worker="w2").claim(100).jobs
    jobs = others + claimer.claim(3).jobs
    assert sorted(ids(jobs)) == sorted(job_ids)
    assert len(client.zrange(keys.rq_wip("live"), 0, -1)) == len(job_ids)


def test_a_job_that_may_not_be_put_back_does_not_publish_its_batch_twice(
    settings: Settings, client: redis.Redis, restricted: Callable[[str], None]
) -> None:
    """If the script failed after it had written the other results, each further run would write them again."""
    kit.submit(settings, frame(), frame())
    url = settings.redis_url.replace("redis://", "redis://w:secret@")
    good, again = claim(settings)
    finisher = kit.finisher(settings.model_copy(update={"redis_url": url}))
    restricted("~* -lpush")
    batch = [finished_job(settings, good), finished_job(settings, again, Disposition.RETRY)]
    assert finisher.finish(batch) == [True, False]
    assert list(kit.outcomes(client)) == ids([good])
    assert [lease.split(b":")[0].decode() for lease in client.zrange(keys.rq_wip("live"), 0, -1)] == ids([again])


def test_a_job_that_the_script_cannot_finish_does_not_hold_up_its_batch(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the cause: no job is known that makes the script raise, otherwise the script would be fixed."""
    kit.submit(settings, *[frame() for _ in range(7)])
    jobs = claim(settings)
    finisher = kit.finisher(settings)
    run = finisher._script
    culprit = jobs[4].lease.execution_id

    def raising(args: list[object]) -> object:
        if culprit in args:
            raise redis.exceptions.ResponseError(
                "user_script:7: attempt to index a nil value script: f, on @user_script:7."
            )
        return run(args)

    monkeypatch.setattr(finisher, "_script", raising)
    assert finisher.finish([finished_job(settings, job) for job in jobs]) == [job is not jobs[4] for job in jobs]
    assert set(kit.outcomes(client)) == {job.lease.job_id for job in jobs if job is not jobs[4]}
    assert [record.levelname for record in caplog.records if record.name == "sortline.finish"] == ["ERROR"]
    assert repr(jobs[4].lease.job_id) in caplog.text


@pytest.mark.parametrize("text", ["MISCONF Errors writing to the AOF file", "BUSY Redis is busy running a script."])
def test_an_error_that_the_server_reports_of_itself_is_not_blamed_on_a_job(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    kit.submit(settings, frame())
    finisher: Finisher = kit.finisher(settings)
    jobs: list[ClaimedJob] = claim(settings)

    def refusing(args: list[object]) -> object:
        raise redis.exceptions.ResponseError(f"{text} script: f, on @user_script:1.")

    monkeypatch.setattr(finisher, "_script", refusing)
    with pytest.raises(redis.exceptions.ResponseError):
        finisher.finish([finished_job(settings, job) for job in jobs])
