"""What a camera does while its server is away or refuses frames: it tries again, and counts what it missed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import redis

from producer import camera as camera_module
from producer.camera import Camera
from producer.frames import PreparedJob
from producer.sources.base import SourceFrame
from producer.sources.folder import FolderSource
from producer.submit import LineProducer
from shared import keys
from shared.errors import BadSetting, RedisUnavailable
from shared.settings import Settings
from tests.producer.camera_kit import FlakyProducer, Frames, options, stalled_camera, submitted
from tests.producer.kit import arguments
from tests.producer.sources.kit import MAX_IMAGE_BYTES, PICTURES, write
from torture.server.states import configured


@pytest.mark.parametrize("written", [False, True])
def test_a_server_that_comes_back_gets_each_frame_once(
    client: redis.Redis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    written: bool,
) -> None:
    monkeypatch.setattr(camera_module, "_RETRY_S", 0.01)
    producer = FlakyProducer(settings, failures=3, written=written, on_failure=lambda: None)
    summary = Camera(options(), Frames(), producer).run()
    assert (summary.accepted, summary.unsent) == (3, 0)
    assert client.llen(keys.rq_queue("live")) == 3
    assert caplog.text.count("no Redis server answers") == 1
    assert caplog.text.count("the server answers again, after") == 1
    assert summary.stalled_s > 0


class RefusedProducer(LineProducer):
    """Sends, at first, to a server that has too few replicas."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        super().__init__(settings)
        self.client = client
        self.refusals = 2

    def send(self, jobs: Sequence[PreparedJob], *, partial: bool = False) -> None:
        self.refusals -= 1
        with configured(self.client, "min-replicas-to-write", "1" if self.refusals >= 0 else "0"):
            super().send(jobs, partial=partial)


def test_a_server_that_refuses_writes_for_a_while_gets_each_frame_once(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(camera_module, "_RETRY_S", 0.01)
    summary = Camera(options(), Frames(), RefusedProducer(settings, client)).run()
    assert (summary.accepted, summary.unsent) == (3, 0)
    assert client.llen(keys.rq_queue("live")) == 3
    assert caplog.text.count("(NOREPLICAS)") == 1


def test_what_the_server_refuses_for_good_ends_it_and_is_named(
    client: redis.Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    client.acl_setuser("camera", enabled=True, nopass=True, keys="*", commands=["+@all", "-set"])
    producer = LineProducer(Settings(redis_url=settings.redis_url.replace("://", "://camera:x@")))
    camera = Camera(options(), Frames(), producer)
    try:
        with pytest.raises(BadSetting, match="'set' command"):
            camera.run()
    finally:
        client.acl_deluser("camera")
    assert (camera.summary().frames, camera.summary().unsent) == (3, 3)
    assert "3 not sent, by name: frame 0, frame 1, frame 2" in caplog.text


def test_a_stop_while_the_server_is_away_names_what_was_not_sent(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    producer = FlakyProducer(settings, failures=99, written=False, on_failure=stop.set)
    summary = Camera(options(), Frames(), producer, stop=stop).run()
    assert (summary.accepted, summary.unsent) == (0, 3)
    assert "3 not sent, by name: frame 0, frame 1, frame 2" in caplog.text


def test_what_the_belt_carried_while_the_server_was_away_is_counted(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After the outage, frame numbers and encoder counts include the frames that were missed."""
    before = submitted("line-1", "missed")
    camera, _ = stalled_camera(monkeypatch, settings, Frames(), encoder_per_frame=5)
    summary = camera.run()
    assert (summary.frames, summary.accepted, summary.unsent, summary.missed) == (3, 3, 0, 99)
    assert summary.stalled_s == 10.0
    assert submitted("line-1", "missed") - before == 99
    jobs = [arguments(client, job_id.decode()) for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]
    assert [(job["frame_id"], job["encoder_count"]) for job in jobs] == [(0, 0), (100, 500), (101, 505)]
    assert caplog.text.count("Trying again") == 1


def test_a_folder_at_a_rate_misses_nothing_while_the_server_is_away(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its pictures wait in the folder. After the outage they are sent at the rate, not in a burst."""
    for number in range(8):
        write(tmp_path / f"{number}.jpg", PICTURES[number], age_s=60)
    with closing(FolderSource(tmp_path, max_image_bytes=MAX_IMAGE_BYTES)) as source:
        camera, producer = stalled_camera(monkeypatch, settings, source, count=8)
        began_at = producer.now
        summary = camera.run()
    assert (summary.accepted, summary.missed) == (8, 0)
    jobs = [arguments(client, job_id.decode()) for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]
    assert [job["frame_id"] for job in jobs] == [f"{number}.jpg" for number in range(8)]
    assert producer.now - began_at == pytest.approx(10.0 + 7 / 10.0, abs=0.2)


def test_what_was_missed_is_counted_while_the_server_is_still_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    camera, _ = stalled_camera(monkeypatch, settings, Frames(), on_progress=lambda summary: seen.append(summary.missed))
    camera.run()
    assert seen[:5] == [19, 39, 59, 79, 99]


def test_a_server_that_answers_late_is_an_outage_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A frozen server, or one that waits for its disk, answers in the end; no call fails."""
    camera, producer = stalled_camera(monkeypatch, settings, Frames(), failures=0, count=2)
    send, delays_s = producer.send, [6.0, 0.5]

    def late(jobs: Sequence[PreparedJob], *, partial: bool = False) -> None:
        send(jobs, partial=partial)
        producer.now += delays_s.pop(0)

    monkeypatch.setattr(producer, "send", late)
    summary = camera.run()
    assert (summary.accepted, summary.missed, summary.stalled_s) == (2, 59, 6.0)
    assert caplog.text.count("the server took 6.0 s to answer") == 1
    assert "0.5 s" not in caplog.text


@pytest.mark.parametrize("refusal", [None, BadSetting("this user may not ping")])
def test_an_outage_ends_when_the_server_is_back_although_no_frame_waits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: Exception | None
) -> None:
    """The only frame became too old meanwhile. The next one comes much later."""
    source, waits = Frames(), [False, *[True] * 30, False]
    camera, producer = stalled_camera(monkeypatch, settings, source, failures=2, rate_hz=0.0, count=2, max_age_s=4.5)
    answers: list[Exception | None] = [RedisUnavailable("no Redis server answers."), refusal]
    take = source.take

    def rarely(limit: int, timeout_s: float) -> list[SourceFrame]:
        producer.now += 1.0
        return [] if waits.pop(0) else take(1, timeout_s)

    def ping() -> None:
        if error := answers.pop(0):
            raise error

    monkeypatch.setattr(source, "take", rarely)
    monkeypatch.setattr(producer, "ping", ping)
    monkeypatch.setattr(camera_module, "_RETRY_S", 1.0)
    summary = camera.run()
    assert (summary.frames, summary.too_old, summary.accepted) == (2, 1, 1)
    assert summary.stalled_s < 15.0
    assert summary.seconds > 30.0
    assert caplog.text.count("the server answers again") == 1


def test_a_ping_reaches_the_server(client: redis.Redis, settings: Settings) -> None:
    LineProducer(settings).ping()
    with pytest.raises(RedisUnavailable):
        LineProducer(Settings(redis_url="redis://127.0.0.1:1/0")).ping()


def test_an_outage_is_logged_again_each_minute(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    camera, _ = stalled_camera(monkeypatch, settings, Frames(), failures=75)
    assert camera.run().stalled_s == 150.0
    assert caplog.text.count("Trying again") == 3
