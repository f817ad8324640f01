"""Uploads: exactly one row for every input, whatever becomes of it."""

from __future__ import annotations

import contextlib
import csv
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from producer.result_table import csv_row
from producer.upload import (
    MISSING,
    QUEUED,
    Row,
    Uploader,
    UploadOptions,
    UploadProgress,
    all_answered,
    outcomes,
    row_as_json,
    write_csv,
)
from producer.upload_inputs import Input, list_inputs
from shared import keys
from shared.errors import BadSetting
from shared.schemas import Outcome
from shared.settings import Settings
from tests.kit import wait_until
from tests.producer.kit import arguments, finish, jpeg, register_worker, sort_result, write_finished
from torture.server.states import configured


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    for number in range(5):
        (path / f"{number}.jpg").write_bytes(jpeg(40 * number))
    (path / "3.jpg").write_bytes(b"no image")
    return path


@pytest.fixture
def answering(client: redis.Redis) -> Iterator[None]:
    """Takes jobs off `bulk`, as a worker would, and answers them."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.01):
            while job_id := client.lpop(keys.rq_queue("bulk")):
                write_finished(client, [sort_result(job_id.decode())])

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()


def inputs_of(*paths: Path) -> list[Input]:
    return list(list_inputs(paths))


def upload(settings: Settings, folder: Path, **options: object) -> list[Row]:
    chosen = UploadOptions(**{"line": "upload", **options})  # type: ignore[arg-type]
    return Uploader(chosen, settings).run(inputs_of(folder))


def test_without_waiting_the_rows_say_what_was_queued(client: redis.Redis, settings: Settings, folder: Path) -> None:
    rows = upload(settings, folder)
    assert [row.outcome for row in rows] == [QUEUED, QUEUED, QUEUED, Outcome.REJECTED, QUEUED]
    assert [row.file for row in rows] == [f"{folder}/{number}.jpg" for number in range(5)]
    assert client.lrange(keys.rq_queue("bulk"), 0, -1) == [row.job_id.encode() for row in rows if row.job_id]
    assert arguments(client, rows[0].job_id)["frame_id"] == rows[0].file
    assert rows[3].job_id == ""
    assert "not an accepted image" in rows[3].error


@pytest.mark.usefixtures("answering")
def test_with_waiting_every_row_has_its_result(settings: Settings, folder: Path) -> None:
    rows = upload(settings, folder, wait=True)
    assert outcomes(rows) == {"sorted": 4, "rejected": 1}
    row = rows[0]
    assert row.result is not None
    assert row.result == sort_result(row.job_id, line=row.result.line, frame_id=7)
    assert row.error == ""
    assert all_answered(rows)


@pytest.mark.usefixtures("answering")
def test_a_full_queue_is_waited_for(settings: Settings, folder: Path) -> None:
    waits = []
    small = settings.model_copy(update={"queue_max_items": 2, "line_share": 1.0})
    uploader = Uploader(
        UploadOptions(line="upload", wait=True), small, on_progress=lambda state: waits.append(state.waiting)
    )
    assert outcomes(uploader.run(inputs_of(folder))) == {"sorted": 4, "rejected": 1}
    assert waits[-1] == ""


def test_a_queue_that_stays_full_ends_with_the_reason(client: redis.Redis, settings: Settings, folder: Path) -> None:
    small = settings.model_copy(update={"queue_max_items": 2, "line_share": 1.0})
    states = []
    uploader = Uploader(
        UploadOptions(line="upload", timeout_s=0.3), small, on_progress=lambda state: states.append(state.waiting)
    )
    rows = uploader.run(inputs_of(folder))
    assert "queue holds 2 images" in states
    assert [row.outcome for row in rows] == [QUEUED, QUEUED, MISSING, Outcome.REJECTED, MISSING]
    assert "its limit is 2" in rows[2].error
    assert client.llen(keys.rq_queue("bulk")) == 2
    assert not all_answered(rows)


def test_missing_results_are_rows_too(client: redis.Redis, settings: Settings, folder: Path) -> None:
    rows = upload(settings, folder, wait=True, timeout_s=0.3)
    assert outcomes(rows) == {MISSING: 4, "rejected": 1}
    assert all("no result within 0.3 s" in row.error for row in rows if row.outcome == MISSING)
    assert not all_answered(rows)


@pytest.mark.slow
def test_a_failed_job_and_a_vanished_one_are_told_apart(client: redis.Redis, settings: Settings, folder: Path) -> None:
    def end_jobs() -> None:
        wait_until(lambda: client.llen(keys.rq_queue("bulk")) == 4, "all are in the queue")
        first, second, *others = [job_id.decode() for job_id in client.lrange(keys.rq_queue("bulk"), 0, -1)]
        client.delete(keys.rq_job(second))
        finish(client, [sort_result(first, Outcome.FAILED)])
        write_finished(client, [sort_result(job_id) for job_id in others])

    # RQ's worker needs the main thread, as it installs signal handlers, so the upload runs in the other one.
    rows: list[Row] = []
    thread = threading.Thread(target=lambda: rows.extend(upload(settings, folder, wait=True, timeout_s=60)))
    thread.start()
    end_jobs()
    thread.join()
    assert [row.outcome for row in rows] == ["failed", MISSING, "sorted", "rejected", "sorted"]
    assert rows[0].error == "given up"
    assert "will never have a result: the server does not know it" in rows[1].error
    assert not all_answered(rows)


def test_an_absent_server_ends_with_the_reason(settings: Settings, folder: Path) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    rows = upload(away, folder, timeout_s=0.0)
    assert outcomes(rows) == {MISSING: 4, "rejected": 1}
    assert all("no Redis server answers" in row.error for row in rows if row.outcome == MISSING)


def test_a_server_that_refuses_writes_is_waited_for_and_says_why(
    client: redis.Redis, settings: Settings, folder: Path
) -> None:
    problems: list[str] = []
    with contextlib.ExitStack() as refusal:
        refusal.enter_context(configured(client, "min-replicas-to-write", "1"))

        def on_progress(state: UploadProgress) -> None:
            if state.problem:
                problems.append(state.problem)
                refusal.close()

        rows = Uploader(UploadOptions(line="upload"), settings, on_progress=on_progress).run(inputs_of(folder))
    assert outcomes(rows) == {QUEUED: 4, "rejected": 1}
    assert "(NOREPLICAS)" in problems[0]
    assert client.llen(keys.rq_queue("bulk")) == 4


def test_what_the_server_refuses_for_good_is_in_every_row_that_it_concerns(
    client: redis.Redis, settings: Settings, folder: Path
) -> None:
    """Of four images two are in the queue when the right to put them there is taken away."""
    client.acl_setuser("upload", enabled=True, nopass=True, keys="*", commands=["+@all"])
    theirs = settings.model_copy(
        update={"redis_url": settings.redis_url.replace("://", "://upload:x@"), "queue_max_items": 2, "line_share": 1.0}
    )

    def on_progress(state: UploadProgress) -> None:
        if state.sent == 3:  # with the one that is no image
            client.execute_command("ACL", "SETUSER", "upload", "-hget")

    uploader = Uploader(UploadOptions(line="upload", wait=True), theirs, on_progress=on_progress)
    try:
        with pytest.raises(BadSetting, match="'hget' command"):
            uploader.run(inputs_of(folder))
    finally:
        client.acl_deluser("upload")
    assert [bool(row.job_id) for row in uploader.rows] == [True, True, False, False, False]
    assert all("'hget' command" in row.error for row in uploader.rows if row.outcome == MISSING)
    assert outcomes(uploader.rows) == {MISSING: 4, "rejected": 1}


def test_a_bad_line_is_refused_before_anything_is_read(settings: Settings, folder: Path) -> None:
    with pytest.raises(BadSetting, match="line = 'a b'"):
        upload(settings, folder, line="a b")


def test_csv_and_json_have_the_same_of_each_row(tmp_path: Path) -> None:
    result = sort_result("j1").model_copy(update={"uncertain": True})
    rows = [Row("a,b.jpg", "j1", "sorted", "", result), Row('"c".jpg', error="line\nbreak")]
    write_csv(rows, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        sorted_row, missing = csv.DictReader(file)
    assert sorted_row == {"file": "a,b.jpg"} | {name: _cell(value) for name, value in csv_row(result).items()}
    assert (sorted_row["labels"], sorted_row["probability"]) == ("no cap|pigmented", "0.875|0.75")
    assert (sorted_row["uncertain"], sorted_row["deadline_margin_ms"]) == ("true", "-50.0")
    assert {name: value for name, value in missing.items() if value} == {
        "file": '"c".jpg',
        "outcome": "missing",
        "error": r"line\nbreak",
    }
    as_json = [row_as_json(row) for row in rows]
    assert as_json[0] == {"file": "a,b.jpg"} | result.model_dump(mode="json")
    assert as_json[0].keys() == as_json[1].keys()
    assert {name: value for name, value in as_json[1].items() if value is not None} == {
        "file": '"c".jpg',
        "outcome": "missing",
        "error": "line\nbreak",
    }


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def test_the_error_of_a_full_disk_names_the_csv_file() -> None:
    with pytest.raises(BadSetting, match="/dev/full can't be written: No space left"):
        write_csv([Row("a.jpg")], Path("/dev/full"))


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda client: None, "no worker listens to queue 'blk': none is running"),
        (
            lambda client: register_worker(client, "w1", "live", "bulk"),
            "no worker listens to queue 'blk'; workers listen to bulk, live. Did you mean bulk?",
        ),
        (
            lambda client: (register_worker(client, "w1", "live", "blk"), client.set(keys.RQ_SUSPENDED, 1)),
            "the workers of queue 'blk' are suspended: its jobs wait until `rq resume`",
        ),
        (
            lambda client: register_worker(client, "w1", "blk"),
            "1 worker listens to queue 'blk' (jobs waiting there: 4)",
        ),
    ],
)
def test_a_missing_result_says_whether_anybody_serves_the_queue(
    client: redis.Redis, settings: Settings, folder: Path, prepare: Callable[[redis.Redis], object], says: str
) -> None:
    prepare(client)
    rows = upload(settings, folder, wait=True, timeout_s=0.2, queue="blk")
    assert all(says in row.error for row in rows if row.outcome == MISSING)
    assert outcomes(rows) == {MISSING: 4, "rejected": 1}


def test_an_upload_says_at_once_that_nobody_listens(client: redis.Redis, settings: Settings, folder: Path) -> None:
    register_worker(client, "w1", "live", "bulk")
    said: list[str] = []
    options = UploadOptions(line="upload", queue="blk")
    Uploader(options, settings, on_progress=lambda state: said.append(state.unserved)).run(inputs_of(folder))
    assert "no worker listens to queue 'blk'" in said[-1]
    upload(settings, folder, queue="bulk")
