"""After the same jobs, Redis holds what RQ's own SimpleWorker leaves there, key by key.

Each scenario runs twice, with the same job ids on the emptied server: once through RQ's SimpleWorker and
`worker.tasks.sort_image`, once through our worker. Times and execution ids are checked and then replaced by
placeholders; the rest of both dumps is compared in full. Intended differences are named where the comparison
leaves them out: OURS, OUR_FIELD, LOCKS, `_worker_field` and `test_a_started_job`.
"""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
import redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from rq.suspension import suspend
from rq.worker.base import BaseWorker

import worker.tasks
from producer.frames import PreparedJob
from producer.queue_writer import JOB_TIMEOUT_S
from producer.submit import LineProducer
from shared import keys
from shared.schemas import SortResult
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame, picture

WORKER = "w1"
# By how much the times of the two runs may differ.
TOLERANCE_S = 20.0
# Sortline's own keys that are not part of a job's state: wakeup lists, the sweep, workers' processes, a queue's counts.
OURS = ("sortline:bell:", "sortline:sweep:", "sortline:processes:")
OURS += ("sortline:load:", "sortline:flow:", "sortline:capacities:")
# Sortline's own field in the worker's hash: the answer of the last finish call.
OUR_FIELD = keys.LAST_FINISH
# RQ's maintenance holds these locks for a while; Sortline's maintenance needs no locks.
LOCKS = ("rq:clean_registries:", "rq:clean_groups")

Dump = dict[str, tuple[str, Any, Any]]
pytestmark = pytest.mark.usefixtures("own_signals")


# reading the server ─────────────────────────────────────────────────────────────────────────────────


class Reader:
    """Reads every key into a form that is equal for two runs of the same jobs."""

    def __init__(self, client: redis.Redis, *, since: float, jobs: Sequence[PreparedJob]) -> None:
        self._client = client
        self._since = since
        self._job_ids = {job.job_id for job in jobs}

    def dump(self) -> Dump:
        """Type, content and time to live of every key."""
        names = sorted(key.decode() for key in self._client.keys("*"))
        found = {name: self._read(name) for name in names if not name.startswith((*OURS, *LOCKS))}
        return {self._plain(name): value for name, value in found.items()}

    def _read(self, name: str) -> tuple[str, Any, Any]:
        kind = self._client.type(name).decode()
        content = getattr(self, f"_{kind}")(name)
        return kind, content, self._ttl(name)

    def _ttl(self, name: str) -> Any:
        ttl_s = self._client.ttl(name)
        return Near(ttl_s) if ttl_s >= 0 else "forever"

    def _string(self, name: str) -> bytes:
        return bytes(self._client.get(name))

    def _list(self, name: str) -> list[str]:
        return [item.decode() for item in self._client.lrange(name, 0, -1)]

    def _set(self, name: str) -> set[str]:
        return {self._plain(item.decode()) for item in self._client.smembers(name)}

    def _zset(self, name: str) -> dict[str, Any]:
        return {
            self._plain(member.decode()): Near(score - time.time()) if score not in (float("inf"), -1) else score
            for member, score in self._client.zrange(name, 0, -1, withscores=True)
        }

    def _hash(self, name: str) -> dict[str, Any]:
        fields = {key.decode(): value for key, value in self._client.hgetall(name).items()}
        if name.startswith("rq:worker:"):
            fields.pop(OUR_FIELD, None)
        fields.pop(keys.SET_APART, None)  # only our worker sets jobs apart
        return {key: self._field(name, key, value) for key, value in fields.items()}

    def _stream(self, name: str) -> list[dict[str, Any]]:
        entries = []
        for entry_id, fields in self._client.xrange(name):
            self._check_time(int(entry_id.split(b"-")[0]) / 1000)
            entries.append({key.decode(): self._field(name, key.decode(), value) for key, value in fields.items()})
        if name.startswith("sortline:results:"):  # a batch's results come by deadline, not by place in the queue
            entries.sort(key=lambda entry: str(entry["result"]["job_id"]))
        return entries

    def _field(self, name: str, key: str, value: bytes) -> Any:
        text = value.decode(errors="replace")
        if key in ("id", "execution_id"):
            return self._plain(text)
        if key == "data":
            return json.loads(zlib.decompress(value))
        if key in ("birth", "death", "last_heartbeat") or key.endswith("_at"):
            return self._time(name, text)
        if key in ("result", "return_value", "meta", "exc_string"):
            return self._message(key, value)
        return self._worker_field(key, text) if name.startswith("rq:worker:") else text

    def _worker_field(self, key: str, text: str) -> str:
        """Leave out what differs: RQ's worker sets its state with each job, ours with each heartbeat; ports vary."""
        if key == "total_working_time":
            assert 0 <= float(text) < 60
            return "<seconds>"
        if key == "ip_address":
            return text.rpartition(":")[0]
        if key == "state":
            assert text in ("started", "busy", "idle", "suspended")
            return "<state>"
        return text

    def _message(self, key: str, value: bytes) -> Any:
        match key:
            case "result":
                return self._sort_result(json.loads(value))
            case "return_value":
                return self._sort_result(json.loads(base64.b64decode(value)))
            case "meta":
                meta = json.loads(value)
                return meta | {"sort_result": self._sort_result(meta["sort_result"])}
        text = zlib.decompress(base64.b64decode(value)).decode()
        assert text.startswith("Traceback (most recent call last):\n")
        return text.rstrip().splitlines()[-1]

    def _sort_result(self, value: dict[str, Any]) -> dict[str, Any]:
        result = SortResult.model_validate(value)
        self._check_time(result.finished_at)
        assert result.timings_ms.total == pytest.approx((result.finished_at - result.captured_at) * 1000, abs=0.01)
        timings = {stage: ms is not None for stage, ms in value["timings_ms"].items()}
        margin = result.deadline_margin_ms
        return value | {
            "finished_at": "<time>",
            "timings_ms": timings,
            "deadline_margin_ms": margin and ("late" if margin < 0 else "in time"),
        }

    def _time(self, name: str, text: str) -> str:
        """Check a time: RQ's hashes hold text in one exact format, executions and results hold epoch seconds."""
        if text == "":
            return ""
        if name.startswith(("rq:job:", "rq:worker:")):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text), f"{name}: {text!r} is not RQ's form"
            self._check_time(datetime.fromisoformat(text).timestamp())
        else:
            self._check_time(float(text))
        return "<time>"

    def _check_time(self, at: float) -> None:
        assert self._since - 0.01 <= at <= time.time() + 0.01, f"{at} is not a time of this run"

    def _plain(self, text: str) -> str:
        """Replace an execution id, which is 32 hex digits that are not a job's id, by a placeholder."""
        head, colon, last = text.rpartition(":")
        if re.fullmatch("[0-9a-f]{32}", last) and last not in self._job_ids:
            return f"{head}{colon}<execution>"
        return text


@dataclass(frozen=True, eq=False)
class Near:
    """A time to live, in seconds, that equals any other that is about as long."""

    seconds: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Near) and abs(self.seconds - other.seconds) < TOLERANCE_S


# running both ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """The same jobs for both workers."""

    jobs: Sequence[PreparedJob]
    before_predict: kit.BeforePredict = kit.nothing
    arrange: Callable[[], object] = lambda: None  # called when the jobs are queued, before the worker starts


class Both:
    """Runs scenarios through RQ's worker and through ours."""

    def __init__(self, settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = settings
        self.client = client
        self._monkeypatch = monkeypatch
        self._since = 0.0
        self._jobs: Sequence[PreparedJob] = ()

    def run(self, scenario: Scenario) -> tuple[Dump, Dump]:
        """What RQ's worker leaves, and what ours leaves."""
        self._jobs = scenario.jobs
        dumps = []
        for work in (self._rq, self._ours):
            self.client.flushall()
            self._since = time.time()
            LineProducer(self.settings).send(scenario.jobs)
            scenario.arrange()
            work(ToneEngine(scenario.before_predict))
            dumps.append(self.dump())
        return dumps[0], dumps[1]

    def dump(self) -> Dump:
        """What the server holds now."""
        return Reader(self.client, since=self._since, jobs=self._jobs).dump()

    def _ours(self, engine: ToneEngine) -> None:
        assert kit.run_service(self.settings, engine, name=WORKER) == 0

    def _rq(self, engine: ToneEngine) -> None:
        self._monkeypatch.setattr(worker.tasks, "_loaded", (kit.loaded_model(self.settings, engine), self.settings))
        with redis.Redis.from_url(self.settings.redis_url) as connection:
            SimpleWorker(
                self.settings.queue_names,
                name=WORKER,
                connection=connection,
                serializer=JSONSerializer,
                default_result_ttl=self.settings.result_ttl_s,
            ).work(burst=True, logging_level="CRITICAL")


@pytest.fixture(autouse=True)
def no_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't start the thread in which RQ's worker listens to commands: it writes nothing and takes a second to stop."""
    monkeypatch.setattr(BaseWorker, "subscribe", lambda worker: None)


@pytest.fixture(autouse=True)
def no_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch RQ's clean-up off. RQ's worker does it before its first job, ours two seconds after its start.

    On a slow machine our run may take longer than that, and the keys that jobs leave are compared here.
    """
    monkeypatch.setattr(BaseWorker, "should_run_maintenance_tasks", False)


@pytest.fixture
def both(settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Both:
    return Both(settings, client, monkeypatch)


def _statuses(dump: Dump) -> list[str]:
    return [content["status"] for name, (_, content, _) in dump.items() if name.startswith("rq:job:")]


# scenarios ──────────────────────────────────────────────────────────────────────────────────────────


def test_sorted_images(both: Both) -> None:
    frames = [frame(picture(tone), frame_id=tone, encoder_count=7) for tone in (0, 130, 255)]
    jobs = kit.prepare(both.settings, [*frames, frame(deadline_ms=600_000), frame(queue="bulk", line="l2")])
    theirs, ours = both.run(Scenario(jobs=jobs))
    assert ours == theirs
    assert _statuses(ours) == ["finished"] * 5
    assert {"rq:finished:live", "rq:finished:bulk", "sortline:results:l1", "sortline:results:l2"} <= ours.keys()
    assert not any(name.startswith(("sortline:image:", "rq:wip:", "rq:execution")) for name in ours)


def test_a_rejected_image(both: Both) -> None:
    theirs, ours = both.run(Scenario(jobs=kit.prepare(both.settings, [frame(kit.broken_picture())])))
    assert ours == theirs
    (entry,) = ours["sortline:results:l1"][1]
    assert entry["result"]["outcome"] == "rejected"
    assert _statuses(ours) == ["finished"]


def test_an_image_that_is_gone(both: Both) -> None:
    jobs = kit.prepare(both.settings, [frame()])
    theirs, ours = both.run(Scenario(jobs=jobs, arrange=lambda: both.client.delete(keys.image(jobs[0].job_id))))
    assert ours == theirs
    assert "image_ttl_s" in ours["sortline:results:l1"][1][0]["result"]["error"]


def test_an_expired_image(both: Both) -> None:
    late = frame(captured_at=time.time() - 60, deadline_ms=100)
    theirs, ours = both.run(Scenario(jobs=kit.prepare(both.settings, [late])))
    assert ours == theirs
    result = ours["sortline:results:l1"][1][0]["result"]
    assert (result["outcome"], result["labels"], result["deadline_margin_ms"]) == ("expired", [], "late")


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_failed_job(settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, attempts: int) -> None:
    both = Both(settings.model_copy(update={"max_attempts": attempts}), client, monkeypatch)
    jobs = kit.prepare(both.settings, [frame()])
    theirs, ours = both.run(Scenario(jobs=jobs, before_predict=kit.always_fails))
    assert ours == theirs
    assert _statuses(ours) == ["failed"]
    (entry,) = ours["sortline:results:l1"][1]
    assert (entry["result"]["outcome"], entry["result"]["attempt"]) == ("failed", attempts)
    assert ours[f"rq:job:{jobs[0].job_id}"][1]["meta"]["sort_result"] == entry["result"]
    assert f"sortline:image:{jobs[0].job_id}" in ours, "rq requeue would have nothing to sort"


@pytest.mark.parametrize("before_predict", [kit.nothing, kit.always_fails], ids=["sorted", "failed"])
def test_a_job_whose_workers_died(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, before_predict: kit.BeforePredict
) -> None:
    """Both workers report the same attempt. A failed job loses its counts, so that `rq requeue` starts it afresh."""
    both = Both(settings.model_copy(update={"max_attempts": 1}), client, monkeypatch)
    (job,) = kit.prepare(both.settings, [frame()])
    deaths = {keys.CRASHES: 1, keys.LOSSES: 2}

    def arrange() -> None:
        both.client.hset(keys.rq_job(job.job_id), mapping=deaths)

    theirs, ours = both.run(Scenario(jobs=[job], before_predict=before_predict, arrange=arrange))
    assert ours == theirs
    assert ours["sortline:results:l1"][1][0]["result"]["attempt"] == 4
    kept = ours[f"rq:job:{job.job_id}"][1].keys()
    assert deaths.keys() <= kept if before_predict is kit.nothing else not deaths.keys() & kept


def test_a_job_that_is_retried(both: Both) -> None:
    """After its first attempt the job is in front of a newer one. Both workers stop there, since they are suspended."""
    first, second = kit.prepare(both.settings, [frame(), frame()])

    def fail_once(batch: object) -> None:
        suspend(both.client)
        LineProducer(both.settings).send([second])
        raise RuntimeError("out of order")

    theirs, ours = both.run(Scenario(jobs=[first], before_predict=fail_once))
    assert ours == theirs
    assert ours["rq:queue:live"][1] == [first.job_id, second.job_id]
    assert ours[f"rq:job:{first.job_id}"][1]["retries_left"] == "1"
    assert "sortline:results:l1" not in ours


@pytest.mark.parametrize("ttl", ["0", "77"])
@pytest.mark.parametrize("before_predict", [kit.nothing, kit.always_fails], ids=["sorted", "failed"])
def test_times_to_live(both: Both, ttl: str, before_predict: kit.BeforePredict) -> None:
    (job,) = kit.prepare(both.settings, [frame()])
    fields = ("result_ttl", "failure_ttl")

    def arrange() -> None:
        both.client.hdel(keys.rq_job(job.job_id), "retries_left", "retry_intervals")
        both.client.hset(keys.rq_job(job.job_id), mapping=dict.fromkeys(fields, ttl))

    theirs, ours = both.run(Scenario(jobs=[job], before_predict=before_predict, arrange=arrange))
    assert ours == theirs


def test_a_started_job(settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dumps taken while the engine works. RQ's lease lasts the job's timeout plus a minute; ours is set to that too.

    The job's key has a time to live, like that of a failed job that was requeued. A started job must not expire.
    """
    both = Both(settings.model_copy(update={"lease_s": JOB_TIMEOUT_S + 60}), client, monkeypatch)
    seen: list[Dump] = []
    jobs = kit.prepare(both.settings, [frame()])
    job_id = jobs[0].job_id

    def look(batch: object) -> None:
        kit.wait_until(lambda: client.hexists(keys.rq_worker(WORKER), "birth"), "the worker is registered")
        seen.append(both.dump())

    both.run(
        Scenario(
            jobs=jobs,
            before_predict=look,
            arrange=lambda: client.expire(keys.rq_job(job_id), 1000),
        )
    )
    theirs, ours = seen
    assert ours[f"rq:job:{job_id}"][2] == "forever"
    execution = f"rq:execution:{job_id}:<execution>"
    assert {execution, f"rq:executions:{job_id}", "rq:wip:live", f"rq:worker:{WORKER}:executions"} <= ours.keys()
    # Our execution key outlives the lease by a minute, because the worker that reaps the lease reads its owner from it.
    assert ours[execution][2] == Near(theirs[execution][2].seconds + 60)
    # The times to live differ: RQ's worker sets them for the whole job, ours with a heartbeat every two seconds.
    for name in (execution, f"rq:worker:{WORKER}", f"rq:worker:{WORKER}:executions"):
        assert theirs[name][:2] == ours[name][:2]
        assert isinstance(ours[name][2], Near)
        del theirs[name], ours[name]
    assert ours == theirs
