"""Results: found wherever RQ keeps them; missing and expired ones are named; many are read in one round trip."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import uuid
from collections.abc import Callable

import pytest
import redis

from producer.frames import Frame
from producer.results import ROUND_JOBS, AnswerReader, iter_results, wait_for
from producer.submit import LineProducer
from shared import keys
from shared.errors import BadSetting, RedisUnavailable, ResultGone, ResultTimeout
from shared.schemas import Outcome, SortResult
from shared.settings import Settings
from tests.producer.kit import finish, jpeg, sort_result, write_finished
from torture.server.states import replica_that_refuses_reads


def submitted(settings: Settings, count: int) -> list[str]:
    return LineProducer(settings).submit_many([Frame(data=jpeg(), line="line-1", camera="c") for _ in range(count)])


def new_ids(count: int) -> list[str]:
    return [uuid.uuid4().hex for _ in range(count)]


def write_ended(client: redis.Redis, job_id: str, status: str, result: SortResult) -> None:
    """Have the job end with this result, which may be that of another one."""
    text = result.model_dump_json()
    client.hset(keys.rq_job(job_id), mapping={"status": status, "meta": f'{{"sort_result": {text}}}'})
    client.xadd(keys.rq_results(job_id), {"type": 1, "return_value": base64.b64encode(text.encode())})


def test_finished_and_failed_jobs_of_rqs_own_worker_are_read(client: redis.Redis, settings: Settings) -> None:
    good, bad = new_ids(2)
    expected = {good: sort_result(good, Outcome.LATE), bad: sort_result(bad, Outcome.FAILED)}
    finish(client, list(expected.values()))
    assert wait_for([bad, good], 5, settings) == expected


def test_results_of_a_newer_release_are_read(client: redis.Redis, settings: Settings) -> None:
    (job_id,) = new_ids(1)
    newer = sort_result(job_id).model_dump(mode="json") | {"outcome": "parked", "invented": 1}
    client.hset(keys.rq_job(job_id), mapping={"status": "finished"})
    client.xadd(
        keys.rq_results(job_id), {"type": 1, "return_value": base64.b64encode(json.dumps(newer).encode()).decode()}
    )
    assert wait_for([job_id], 5, settings)[job_id].outcome.value == "parked"


def test_results_come_in_the_order_asked_each_once(client: redis.Redis, settings: Settings) -> None:
    job_ids = new_ids(5)
    write_finished(client, [sort_result(job_id) for job_id in reversed(job_ids)])
    assert list(wait_for([*job_ids, job_ids[0]], 5, settings)) == job_ids


def test_waiting_ends_when_the_last_result_comes(client: redis.Redis, settings: Settings) -> None:
    job_ids = submitted(settings, 3)
    write_finished(client, [sort_result(job_ids[1])])
    later = threading.Timer(0.3, write_finished, (client, [sort_result(job_ids[0]), sort_result(job_ids[2])]))
    later.start()
    assert list(wait_for(job_ids, 30, settings)) == job_ids
    later.join()


def test_a_timeout_names_the_missing_and_keeps_the_rest(client: redis.Redis, settings: Settings) -> None:
    job_ids = submitted(settings, 3)
    write_finished(client, [sort_result(job_ids[1])])
    with pytest.raises(ResultTimeout, match=r"2 results are missing after 0\.2 s") as timeout:
        wait_for(job_ids, 0.2, settings)
    assert set(timeout.value.missing) == {job_ids[0], job_ids[2]}
    assert timeout.value.results == {job_ids[1]: sort_result(job_ids[1])}


def test_with_a_timeout_of_0_all_results_that_exist_are_still_read(client: redis.Redis, settings: Settings) -> None:
    job_ids = new_ids(ROUND_JOBS + 100)
    write_finished(client, [sort_result(job_id) for job_id in job_ids])
    assert list(wait_for(job_ids, 0, settings)) == job_ids


def test_a_vanished_job_is_reported_and_does_not_hang(client: redis.Redis, settings: Settings) -> None:
    there, gone = new_ids(2)
    write_finished(client, [sort_result(there)])
    with pytest.raises(ResultGone, match="1 of 2 jobs will never have a result") as error:
        wait_for([gone, there], 30, settings)
    assert set(error.value.results) == {there}
    assert error.value.reasons == {gone: "the server does not know it (any more)"}


@pytest.mark.parametrize(
    ("fields", "stream", "reason"),
    [
        ({"status": "canceled"}, None, "canceled"),
        ({"status": "stopped"}, None, "stopped"),
        ({"status": "failed"}, None, "outside of Sortline's worker"),
        ({"status": "failed", "meta": '{"sort_result": {"job_id": 1}}'}, None, "can't be read"),
        ({"status": "failed", "meta": "{}"}, None, "can't be read"),
        ({"status": "finished"}, None, "expired"),
        ({"status": "finished"}, {"type": "1"}, "without a return value"),
        ({"status": "finished"}, {"type": "1", "return_value": "!"}, "can't be read"),
        ({"status": "finished"}, {"type": "1", "return_value": "bnVsbA=="}, "can't be read"),
    ],
)
def test_a_job_that_ended_without_a_usable_result_is_explained(
    client: redis.Redis, settings: Settings, fields: dict[str, str], stream: dict[str, str] | None, reason: str
) -> None:
    (job_id,) = new_ids(1)
    client.hset(keys.rq_job(job_id), mapping=fields)
    if stream is not None:
        client.xadd(keys.rq_results(job_id), stream)
    (found,) = iter_results([job_id], 5, settings)
    assert found.result is None
    assert reason in str(found.gone)


@pytest.mark.parametrize("outcome", [Outcome.SORTED, Outcome.LATE, Outcome.FAILED])
@pytest.mark.parametrize("status", ["finished", "failed"])
def test_a_result_of_another_job_is_refused(
    client: redis.Redis, settings: Settings, status: str, outcome: Outcome
) -> None:
    victim, other = new_ids(2)
    write_ended(client, victim, status, sort_result(other, outcome))
    with pytest.raises(ResultGone, match="its result is that of another job"):
        wait_for([victim], 5, settings)


@pytest.mark.parametrize(
    ("status", "outcome", "words"),
    [
        *(
            ("failed", outcome, "does not say `failed`, but the job failed")
            for outcome in Outcome
            if outcome != "failed"
        ),
        ("failed", "parked", "does not say `failed`, but the job failed"),
        ("finished", Outcome.FAILED, "says `failed`, but the job finished"),
    ],
)
def test_an_outcome_that_the_job_can_not_have_is_refused(
    client: redis.Redis, settings: Settings, status: str, outcome: str, words: str
) -> None:
    (job_id,) = new_ids(1)
    write_ended(client, job_id, status, sort_result(job_id, Outcome(outcome)))
    with pytest.raises(ResultGone, match=words):
        wait_for([job_id], 5, settings)


def test_a_retried_jobs_last_result_counts(client: redis.Redis, settings: Settings) -> None:
    (job_id,) = new_ids(1)
    client.xadd(keys.rq_results(job_id), {"type": 2, "exc_string": "the first attempt"})
    write_finished(client, [sort_result(job_id)])
    assert wait_for([job_id], 5, settings) == {job_id: sort_result(job_id)}


def test_thousands_are_read_a_bounded_number_at_a_time(client: redis.Redis, settings: Settings) -> None:
    job_ids = new_ids(3 * ROUND_JOBS)
    for job_id in job_ids[: 2 * ROUND_JOBS]:
        client.hset(keys.rq_job(job_id), "status", "queued")
    write_finished(client, [sort_result(job_id) for job_id in job_ids[2 * ROUND_JOBS :]])
    reader = AnswerReader(client, settings.redis_url)
    reader.add(job_ids)
    assert [len(reader.poll()) for _ in range(3)] == [0, 0, ROUND_JOBS]  # those at the front don't block the others
    assert set(reader.pending) == set(job_ids[: 2 * ROUND_JOBS])


def test_nothing_to_wait_for(settings: Settings) -> None:
    assert wait_for([], 5, settings) == {}


def test_an_absent_server_is_named() -> None:
    with pytest.raises(ResultTimeout, match=r"no Redis server answers at redis://127\.0\.0\.1:1/0") as timeout:
        wait_for(["a"], 0.1, Settings(redis_url="redis://127.0.0.1:1/0"))
    assert timeout.value.missing == ("a",)
    assert isinstance(timeout.value.__cause__, RedisUnavailable)


def test_a_server_that_can_not_serve_for_a_while_is_waited_for(client: redis.Redis, settings: Settings) -> None:
    first, second = new_ids(2)
    write_finished(client, [sort_result(first), sort_result(second)])
    with contextlib.ExitStack() as outage:
        outage.enter_context(replica_that_refuses_reads(client))
        answers = iter_results([first, second], 60, settings, sleep=lambda seconds: outage.close())
        assert [answer.job_id for answer in answers] == [first, second]


def test_an_error_that_waiting_does_not_fix_is_raised_at_once(client: redis.Redis, settings: Settings) -> None:
    client.acl_setuser("reader", enabled=True, nopass=True, keys="*", commands=["+@all", "-hmget"])
    theirs = Settings(redis_url=settings.redis_url.replace("://", "://reader:x@"))
    try:
        with pytest.raises(BadSetting, match="'hmget' command"):
            wait_for(["a"], 60, theirs)
    finally:
        client.acl_deluser("reader")


@pytest.mark.parametrize("key", [keys.rq_job, keys.rq_results])
def test_a_key_of_another_type_concerns_its_own_job_alone(
    client: redis.Redis, settings: Settings, key: Callable[[str], str]
) -> None:
    bad, good = new_ids(2)
    write_finished(client, [sort_result(bad), sort_result(good)])
    client.delete(key(bad))
    client.set(key(bad), "neither a hash nor a stream")
    with pytest.raises(ResultGone, match="another type") as gone:
        wait_for([bad, good], 5, settings)
    assert list(gone.value.results) == [good]
    assert list(gone.value.reasons) == [bad]
