"""Which jobs are admitted, and that no code of a refused job ever runs."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Callback, Queue, Repeat
from rq.serializers import JSONSerializer

from shared import keys
from shared.errors import BadJob
from shared.jobs import SORT_IMAGE
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame
from tests.worker.step_inputs import claimed, image_job
from worker.steps.admit import admit


def call(function: str = SORT_IMAGE, *arguments: Any, keywords: dict[str, Any] | None = None) -> bytes:
    """RQ's data for a call."""
    return zlib.compress(json.dumps([function, None, arguments, keywords or {}]).encode())


def as_argument(**changes: Any) -> dict[str, Any]:
    """An ImageJob's JSON with some fields changed or added."""
    return image_job().model_dump(mode="json") | changes


def test_a_good_job_is_admitted() -> None:
    admitted = admit(claimed(data=call(SORT_IMAGE, as_argument()), retries_left=1), max_attempts=3)
    assert admitted.job.job_id == "j1"
    assert admitted.attempt == 2


def test_fields_that_a_newer_producer_adds_are_ignored() -> None:
    """Versions run side by side during an upgrade."""
    argument = as_argument(invented={"deep": [1]})
    admitted = admit(claimed(data=call(SORT_IMAGE, argument)), max_attempts=3)
    assert admitted.job.job_id == "j1"
    assert "invented" not in admitted.job.model_dump()


def test_a_job_without_a_schema_version_has_the_first() -> None:
    argument = as_argument()
    del argument["schema_version"]
    assert admit(claimed(data=call(SORT_IMAGE, argument)), max_attempts=3).job.schema_version == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema_version": 2}, "schema_version 2, and this worker reads 1 only: .* Update the workers"),
        ({"schema_version": 0}, "schema_version 0,"),
        ({"schema_version": -1, "line": {"its": "meaning has changed"}}, "schema_version -1,"),
        ({"schema_version": 10**4000}, "schema_version of more than 20 digits,"),
        ({"schema_version": "new"}, "schema_version = 'new'"),
    ],
)
def test_another_schema_version_is_refused(changes: dict[str, Any], says: str) -> None:
    """Its fields may mean something else. The refusal comes before any complaint about those."""
    with pytest.raises(BadJob, match=says):
        admit(claimed(data=call(SORT_IMAGE, as_argument(**changes))), max_attempts=3)


def test_the_first_attempt_has_number_one() -> None:
    """That also holds for a job with more retries than this worker would give it."""
    admitted = admit(claimed(data=call(SORT_IMAGE, as_argument()), retries_left=9), max_attempts=3)
    assert admitted.attempt == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "no data"),
        (b"", "not JSON"),
        (b"\x00\xffnot zlib", "not JSON"),
        (zlib.compress(b"{]"), "not JSON"),
        (zlib.compress(b"\xff\xfe\xfd"), "not JSON"),
        (call()[:-4], "not JSON"),
        (zlib.compress(b"[" * 100_000), "not JSON"),
        (zlib.compress(b" " * 300_000_000, 9), "not JSON"),
        (zlib.compress(pickle.dumps((SORT_IMAGE, None, (), {}))), "never unpickles"),
        (call("os.system", "true"), "'os.system'"),
        (call("worker.tasks.use", {}), "'worker.tasks.use'"),
        (call("worker.tasks.use", as_argument()), "'worker.tasks.use'"),
        (call(SORT_IMAGE), "does not call"),
        (call(SORT_IMAGE, as_argument(), as_argument()), "does not call"),
        (call(SORT_IMAGE, as_argument(), keywords={"x": 1}), "does not call"),
        (zlib.compress(json.dumps([SORT_IMAGE, "Instance", [as_argument()], {}]).encode()), "does not call"),
        (zlib.compress(b'"worker.tasks.sort_image"'), "does not call"),
        (zlib.compress(b"null"), "does not call"),
        (zlib.compress(b"[[1]]"), "does not call"),
        (call(SORT_IMAGE, 7), "not an ImageJob: 7 should be a table"),
        (call(SORT_IMAGE, as_argument(line="a:b")), "line = 'a:b': use 1 to 64 letters"),
        (call(SORT_IMAGE, as_argument(captured_at="noon")), "captured_at = 'noon': should be a number"),
        (call(SORT_IMAGE, as_argument(captured_at=float("nan"))), "captured_at = nan: should be a finite number"),
        (call(SORT_IMAGE, as_argument(deadline_at=float("inf"))), "deadline_at = inf: should be a finite number"),
        (call(SORT_IMAGE, as_argument(job_id="j2", image_key=keys.image("j2"))), "'j2'"),
        (call(SORT_IMAGE, as_argument(image_key="rq:queue:live")), "'rq:queue:live'"),
    ],
)
def test_refused(data: bytes | None, says: str) -> None:
    with pytest.raises(BadJob, match=says):
        admit(claimed(data=data), max_attempts=3)


@pytest.mark.parametrize("depth", range(800, 1000, 8))
def test_deep_nesting_is_refused_however_deep(depth: int) -> None:
    """Near the interpreter's limit, JSON that can be parsed may still be nested too deeply to print."""
    deep = "[" * depth + "]" * depth
    for text in (deep, f'["{SORT_IMAGE}", null, [{{"job_id": {deep}}}], {{}}]'):
        with pytest.raises(BadJob):
            admit(claimed(data=zlib.compress(text.encode())), max_attempts=3)


def test_extras_are_refused() -> None:
    with pytest.raises(BadJob, match=r"os\.system"):
        admit(claimed(data=call(SORT_IMAGE, as_argument()), extras="os.system "), max_attempts=3)


def test_long_extras_are_cut_in_the_message() -> None:
    with pytest.raises(BadJob) as caught:
        admit(claimed(data=None, extras="\x1b" * 7_000), max_attempts=3)
    assert len(str(caught.value)) < 4 * 500 + 500


# in the worker ──────────────────────────────────────────────────────────────────────────────────────


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._path),)


@pytest.fixture
def spoil(settings: Settings, client: redis.Redis) -> Callable[..., tuple[str, str]]:
    """A function that enqueues a job with changed fields, and a good one behind it; it returns both ids."""

    def enqueue(**fields: Any) -> tuple[str, str]:
        bad, good = kit.submit(settings, frame(), frame())
        client.hset(keys.rq_job(bad), mapping=fields)
        return bad, good

    return enqueue


def check_refused(settings: Settings, client: redis.Redis, *, bad: str, good: str) -> str:
    """Check that only the bad job fails, and for good; the reason, as RQ reports it."""
    metrics = kit.run_burst(settings)
    assert kit.outcomes(client) == {good: "sorted"}
    assert client.hget(keys.rq_job(bad), "status") == b"failed"
    assert [member.decode() for member in client.zrange("rq:failed:live", 0, -1)] == [bad]
    assert metrics.registry.get_sample_value("sortline_refused_total") == 1
    assert client.llen(keys.rq_queue("live")) == 0
    return kit.fetch(client, bad).latest_result().exc_string


def test_another_function_is_not_even_imported(
    settings: Settings,
    client: redis.Redis,
    spoil: Callable[..., tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "evil_module.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'imported')!r})\ndef run(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    bad, good = spoil(data=call("evil_module.run"))
    assert "evil_module" in check_refused(settings, client, bad=bad, good=good)
    assert "evil_module" not in sys.modules
    assert not (tmp_path / "imported").exists()


def test_a_pickle_is_never_unpickled(
    settings: Settings, client: redis.Redis, spoil: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    mark = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Bomb(mark)))  # noqa: S301  # our own
    mark.rmdir()  # the bomb works
    bad, good = spoil(data=zlib.compress(pickle.dumps(Bomb(mark))))
    check_refused(settings, client, bad=bad, good=good)
    assert not mark.exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"data": b"\x80\x04 not zlib"},
        {"data": zlib.compress(b"[" * 100_000)},
        {"data": call(SORT_IMAGE, {"job_id": "another"})},
        {"success_callback_name": "os.system"},
        {"failure_callback_name": "os.system"},
        {"stopped_callback_name": "os.system"},
        {"dependency_ids": '["x"]'},
        {"repeats_left": 3},
        {"webhooks": '[{"url": "http://127.0.0.1:1"}]'},
        {"rate_limit_key": "k"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_bad_job_fails_alone(
    settings: Settings, client: redis.Redis, spoil: Callable[..., tuple[str, str]], fields: dict[str, Any]
) -> None:
    bad, good = spoil(**fields)
    check_refused(settings, client, bad=bad, good=good)


def test_a_chunk_of_bad_jobs_does_not_take_the_good_ones_with_it(settings: Settings, client: redis.Redis) -> None:
    """Good and bad jobs alternate, so that each decode thread gets both."""
    job_ids = kit.submit(settings, *[frame() for _ in range(12)])
    for bad in job_ids[::3]:
        client.hset(keys.rq_job(bad), "data", zlib.compress(b"[" * 100_000))
    kit.run_burst(settings)
    assert set(kit.outcomes(client)) == set(job_ids) - set(job_ids[::3])


@pytest.mark.parametrize("fields", [{"retries_left": "many"}, {"enqueued_at": "yesterday"}, {"result_ttl": "\udcff"}])
def test_odd_bookkeeping_does_not_stop_the_worker(
    settings: Settings, client: redis.Redis, spoil: Callable[..., tuple[str, str]], fields: dict[str, str]
) -> None:
    raw = {name: value.encode(errors="surrogateescape") for name, value in fields.items()}
    bad, good = spoil(**raw)
    kit.run_burst(settings)
    assert kit.outcomes(client) == {bad: "sorted", good: "sorted"}


def test_jobs_from_rqs_own_enqueue_are_refused_or_sorted(settings: Settings, client: redis.Redis) -> None:
    """This shows that the fields which admission checks are the ones that RQ 3.0 really writes."""
    queue = Queue("live", connection=client, serializer=JSONSerializer)
    extras: list[dict[str, Any]] = [
        {},
        {"on_success": Callback("os.system")},
        {"on_failure": Callback("os.system")},
        {"on_stopped": Callback("os.system")},
        {"repeat": Repeat(times=2)},
    ]
    for number, extra in enumerate(extras):
        (prepared,) = kit.prepare(settings, [frame(frame_id=number)])
        client.set(keys.image(prepared.job_id), prepared.image)
        argument = json.loads(zlib.decompress(prepared.payload))[2][0]
        queue.enqueue(SORT_IMAGE, argument, job_id=prepared.job_id, **extra)
    kit.run_burst(settings, ToneEngine())
    (result,) = kit.stream(client)
    assert result.frame_id == 0
    assert client.zcard("rq:failed:live") == len(extras) - 1
