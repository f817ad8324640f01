"""Uploads and a full queue: they wait as long as it moves, say what for, and send no file twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis

from producer.frames import PreparedJob
from producer.upload import MISSING, QUEUED, Row, Uploader, UploadOptions, outcomes
from producer.upload_inputs import list_inputs
from shared import keys
from shared.errors import Bound, QueueFull, RedisUnavailable
from shared.settings import Settings
from tests.kit import ManualClock
from tests.producer.kit import jpeg, sort_result, write_finished

QUEUE = keys.rq_queue("bulk")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    for number in range(4):
        (path / f"{number}.jpg").write_bytes(jpeg(40 * number))
    return path


class Upload:
    """An upload whose time passes only in its pauses, and whose queue may be full."""

    def __init__(
        self, settings: Settings, *, wait: bool = False, on_pause: Callable[[float], None] = lambda now_s: None
    ) -> None:
        self.clock = ManualClock()
        self.on_pause = on_pause
        self.waiting: list[str] = []
        self.sent: list[list[str]] = []  # for each call, the files
        self.called_at: list[float] = []
        self.uploader = Uploader(
            UploadOptions(line="upload", wait=wait, timeout_s=10.0),
            settings,
            on_progress=lambda state: self.waiting.append(state.waiting),
            clock=self.clock,
            sleep=self._sleep,
        )

    @property
    def now_s(self) -> float:
        return self.clock.now - 1000.0

    def refuse(self, monkeypatch: pytest.MonkeyPatch, *answers: QueueFull | RedisUnavailable | int) -> None:
        """Let the first calls be answered so: by an error, or with the number of jobs that find a place."""
        send, left = self.uploader._producer.send, list(answers)

        def limited(jobs: Sequence[PreparedJob], *, partial: bool = False) -> None:
            self.sent.append([job.description.rpartition("/")[2] for job in jobs])
            self.called_at.append(round(self.now_s, 3))
            answer = left.pop(0) if left else len(jobs)
            if isinstance(answer, RedisUnavailable):
                raise answer
            places = 0 if isinstance(answer, QueueFull) else answer
            send(jobs[:places], partial=partial)
            if isinstance(answer, QueueFull):
                raise answer
            if places < len(jobs):
                accepted = [job.job_id for job in jobs[:places]]
                raise QueueFull("queue 'bulk' is full.", retry_after_s=0.5, accepted=accepted)

        monkeypatch.setattr(self.uploader._producer, "send", limited)

    def run(self, folder: Path) -> list[Row]:
        return self.uploader.run(list(list_inputs([folder])))

    def _sleep(self, seconds: float) -> None:
        self.clock.now += seconds
        self.on_pause(self.now_s)


def test_what_was_accepted_is_not_sent_again(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    upload = Upload(settings)
    upload.refuse(monkeypatch, 1, 2)
    rows = upload.run(folder)
    assert [len(call) for call in upload.sent] == [4, 3, 1]
    assert outcomes(rows) == {QUEUED: 4}
    queued = client.lrange(QUEUE, 0, -1)
    assert Counter(queued) == {row.job_id.encode(): 1 for row in rows}


def test_a_job_whose_answer_was_lost_is_sent_again_as_the_same_job(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    upload = Upload(settings)
    upload.refuse(monkeypatch, 1, RedisUnavailable("no Redis server answers."), 1)
    rows = upload.run(folder)
    assert [len(call) for call in upload.sent] == [4, 3, 3, 2]
    assert Counter(client.lrange(QUEUE, 0, -1)) == {row.job_id.encode(): 1 for row in rows}


@pytest.mark.parametrize(("told_s", "waits_s"), [(0.0, 0.05), (0.75, 0.75), (600.0, 5.0)])
def test_the_pause_is_as_long_as_the_queue_says_within_limits(
    client: redis.Redis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    told_s: float,
    waits_s: float,
) -> None:
    upload = Upload(settings)
    upload.refuse(monkeypatch, QueueFull("full.", retry_after_s=told_s))
    assert outcomes(upload.run(folder)) == {QUEUED: 4}
    assert upload.called_at == [0.0, waits_s]


def test_it_says_which_bound_it_waits_for(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    upload = Upload(settings)
    upload.refuse(monkeypatch, *(QueueFull("full.", bound=bound) for bound in (Bound.BYTES, Bound.LINE)))
    upload.run(folder)
    assert list(dict.fromkeys(upload.waiting)) == ["", "queue holds 500 MB", "line holds 50% of the queue"]
    assert upload.waiting[-1] == ""


def test_it_waits_as_long_as_the_queue_moves(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Others fill each place that becomes free: there are always as many jobs, and another first one."""

    def on_pause(now_s: float) -> None:
        if now_s < 100:
            client.rpush(QUEUE, f"of others, {now_s}")
            client.lpop(QUEUE)

    client.rpush(QUEUE, "of others", "of others too")
    upload = Upload(settings, on_pause=on_pause)
    upload.refuse(monkeypatch, *[QueueFull("full.", retry_after_s=2.0)] * 999)
    rows = upload.run(folder)
    assert 110.0 <= upload.now_s < 113.0  # gives up ten seconds after the last movement
    assert [(row.outcome, row.error) for row in rows] == [(MISSING, "full.")] * 4


def test_results_are_read_while_it_waits_and_are_progress(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def on_pause(now_s: float) -> None:
        if now_s >= 8.0 and (job_id := client.lpop(QUEUE)):
            write_finished(client, [sort_result(job_id.decode())])

    upload = Upload(settings, wait=True, on_pause=on_pause)
    upload.refuse(monkeypatch, 1, *[QueueFull("full.", retry_after_s=5.0)] * 2)
    assert outcomes(upload.run(folder)) == {"sorted": 4}
    assert upload.called_at == pytest.approx([0.0, 0.5, 5.5, 10.5])


def test_it_waits_for_results_while_its_jobs_wait_in_a_queue_that_moves(
    client: redis.Redis, settings: Settings, folder: Path
) -> None:
    """The jobs before them take longer than the timeout, and so do they themselves once they are taken."""
    client.rpush(QUEUE, *(f"of others, {number}" for number in range(8)))

    def on_pause(now_s: float) -> None:
        if now_s >= 5.0 * taken[0] and taken[0] < 12:
            taken[0] += 1
            job_id = client.lpop(QUEUE).decode()
            if not job_id.startswith("of"):
                client.hset(keys.rq_job(job_id), "status", "started")

    taken = [1]
    client.lpop(QUEUE)
    upload = Upload(settings, wait=True, on_pause=on_pause)
    rows = upload.run(folder)
    assert taken == [12]
    assert 60.0 <= upload.now_s < 66.0  # the last one was taken at 55 s
    assert all("no result within 10 s" in row.error for row in rows)


def test_only_the_movement_of_its_own_jobs_queue_counts_once_they_are_taken(
    client: redis.Redis, settings: Settings, folder: Path
) -> None:
    """Others' later jobs go on, but one of its own never ends."""

    def on_pause(now_s: float) -> None:
        client.rpush(QUEUE, f"of others, {now_s}")
        job_id = client.lpop(QUEUE).decode()
        if not job_id.startswith("of"):
            client.hset(keys.rq_job(job_id), "status", "started")

    upload = Upload(settings, wait=True, on_pause=on_pause)
    assert outcomes(upload.run(folder)) == {MISSING: 4}
    assert upload.now_s < 12.0


def test_the_time_that_reading_takes_does_not_count_as_waiting(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """A full queue is not given up at once because the files before came from a slow share."""
    upload = Upload(settings)
    prepare = upload.uploader._prepare

    def slowly(data: bytes, name: str) -> PreparedJob:
        upload.clock.now += 8.0
        return prepare(data, name)

    monkeypatch.setattr(upload.uploader, "_prepare", slowly)
    upload.refuse(monkeypatch, QueueFull("full."))
    assert outcomes(upload.run(folder)) == {QUEUED: 4}
