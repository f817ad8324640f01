"""What a camera does when its queue refuses frames: it drops them or waits, and counts each drop by its reason."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest
import redis
from prometheus_client import REGISTRY

from producer.camera import Camera
from producer.camera_options import TooOld, WhenFull
from producer.sources.base import SourceFrame
from producer.sources.folder import FolderSource
from producer.sources.journal import SentJournal
from producer.submit import LineProducer
from shared import keys
from shared.errors import Bound, RedisUnavailable
from shared.settings import Settings
from tests.kit import wait_until
from tests.producer.camera_kit import FlakyProducer, Frames, FullProducer, full_camera, options, refused
from tests.producer.kit import arguments, jpeg
from tests.producer.sources.kit import MAX_IMAGE_BYTES, PICTURES, write
from torture.server.states import configured

BLOCK = {"when_full": WhenFull.BLOCK}
NOW = 1_700_000_000.0


def queued(client: redis.Redis) -> list[dict[str, object]]:
    return [arguments(client, job_id.decode()) for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]


def frame_ids(client: redis.Redis) -> list[object]:
    return [job["frame_id"] for job in queued(client)]


# drop


def test_each_drop_is_counted_and_logged_by_its_reason(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    verdict = {0: Bound.LINE, 2: Bound.DEADLINE, 3: Bound.LINE, 4: Bound.BYTES}
    camera = full_camera(monkeypatch, Frames(), FullProducer(settings, verdict), line="reasons", count=6)
    summary = camera.run()
    assert (summary.frames, summary.accepted, summary.refused_full) == (6, 2, 4)
    zero = dict.fromkeys(("items", "wait", "memory"), 0)
    assert summary.refused == {"line": 2, "deadline": 1, "bytes": 1, **zero}
    assert refused("reasons") == {"line": 2, "deadline": 1, "bytes": 1}
    assert frame_ids(client) == [1, 5]
    (message,) = [text for text in caplog.messages if "dropped" in text]
    assert message.startswith("line reasons: 4 frames dropped (line 2, deadline 1, bytes 1): frame 0, frame 3, frame 2")
    assert "line: queue 'live' is at its bound of line." in message
    assert "deadline: they could not be answered by their deadlines. Add workers" in message
    assert "raise queue_max_bytes" in message


def test_the_reasons_are_there_as_zero_before_the_first_drop(settings: Settings) -> None:
    Camera(options(line="calm", count=1), Frames(), LineProducer(settings)).run()
    values = [
        REGISTRY.get_sample_value("sortline_refused_frames_total", {"line": "calm", "reason": bound.value})
        for bound in Bound
    ]
    assert values == [0.0] * len(Bound)


def test_a_queue_at_its_limit_of_jobs_is_the_reason_items(settings: Settings) -> None:
    producer = LineProducer(settings.model_copy(update={"queue_max_items": 2, "line_share": 1.0}))
    summary = Camera(options(line="small", count=5), Frames(), producer).run()
    assert (summary.accepted, summary.refused["items"], summary.refused_full) == (2, 3, 3)
    assert refused("small") == {"items": 3}


def test_a_server_whose_memory_is_full_is_the_reason_memory(
    client: redis.Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with configured(client, "maxmemory", "1"):
        summary = Camera(options(line="memory", count=2), Frames(), LineProducer(settings)).run()
    assert (summary.accepted, summary.refused["memory"]) == (0, 2)
    assert "2 frames dropped (memory): frame 0, frame 1: the Redis server" in caplog.text


@pytest.mark.parametrize("when_full", WhenFull)
def test_a_deadline_that_cannot_be_met_costs_no_other_frame_its_place(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, when_full: WhenFull
) -> None:
    producer = FullProducer(settings, {1: Bound.DEADLINE, 3: Bound.DEADLINE})
    summary = full_camera(monkeypatch, Frames(), producer, count=6, when_full=when_full).run()
    assert producer.calls == [[0, 1, 2, 3, 4, 5]]
    assert (summary.accepted, summary.refused_full, summary.refused["deadline"]) == (4, 2, 2)
    assert summary.blocked_s == 0.0
    assert frame_ids(client) == [0, 2, 4, 5]


# block


def test_a_camera_that_waits_loses_no_frame(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    producer = FullProducer(settings, {1: Bound.ITEMS, 2: Bound.LINE}, {2: Bound.ITEMS}, retry_after_s=0.3)
    source = Frames()
    summary = full_camera(monkeypatch, source, producer, **BLOCK).run()
    assert producer.calls == [[0, 1, 2], [1, 2], [2]]
    assert producer.called_at == [0.0, 0.3, 0.6]
    assert (summary.accepted, summary.refused_full, summary.missed, summary.blocked_s) == (3, 0, 0, 0.6)
    assert source.sent == ["frame 0", "frame 1", "frame 2"]
    assert frame_ids(client) == [0, 1, 2]
    assert caplog.text.count("waiting for the queue (items): queue 'live' is at its bound of items.") == 1


@pytest.mark.parametrize(("retry_after_s", "waits_s"), [(0.0, 0.05), (0.7, 0.7), (3600.0, 5.0)])
def test_the_wait_is_as_long_as_the_queue_says_within_limits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, retry_after_s: float, waits_s: float
) -> None:
    producer = FullProducer(settings, {0: Bound.BYTES}, retry_after_s=retry_after_s)
    full_camera(monkeypatch, Frames(), producer, count=1, **BLOCK).run()
    assert producer.called_at == [0.0, waits_s]


def test_what_the_belt_carries_past_meanwhile_is_missed(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder counts of the frames that were kept are those of their capture."""
    seen: list[int] = []
    producer = FullProducer(settings, *[{0: Bound.WAIT}] * 2, retry_after_s=5.0)
    change = {"rate_hz": 10.0, "encoder_per_frame": 5, **BLOCK}
    camera = full_camera(
        monkeypatch, Frames(), producer, on_wait=lambda stop: seen.append(camera.summary().missed), **change
    )
    summary = camera.run()
    assert (summary.frames, summary.accepted, summary.refused_full) == (3, 3, 0)
    assert 89 <= summary.missed <= 99  # of ten seconds; a camera that is less than a second behind catches up
    assert 0 < seen[10] < seen[30] < 99  # counted while it waits
    first, second, third = [(job["frame_id"], job["encoder_count"]) for job in queued(client)]
    next_id = summary.missed + 1
    assert (first, second, third) == ((0, 0), (next_id, 5 * next_id), (next_id + 1, 5 * next_id + 5))


def test_a_frame_whose_deadline_passes_while_it_waits_is_dropped_at_once(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The camera does not go on waiting without a frame: the next one is tried."""
    producer = FullProducer(settings, {0: Bound.ITEMS}, retry_after_s=5.0)
    camera = full_camera(monkeypatch, Frames(), producer, line="belt", count=2, rate_hz=5.0, deadline_ms=150.0, **BLOCK)
    summary = camera.run()
    assert producer.called_at == [0.0, 0.2]
    assert (summary.accepted, summary.refused["deadline"], summary.missed) == (1, 1, 0)
    assert refused("belt") == {"deadline": 1}
    assert "1 frame dropped (deadline): frame 0: their deadlines passed while the queue was full." in caplog.text


def aged(*ages_s: float) -> Frames:
    return Frames({n: SourceFrame(n, f"frame {n}", jpeg(), captured_at=NOW - age_s) for n, age_s in enumerate(ages_s)})


def test_frames_that_become_too_old_while_they_wait_are_not_sent(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = FullProducer(settings, {0: Bound.ITEMS, 1: Bound.ITEMS}, retry_after_s=2.0)
    summary = full_camera(monkeypatch, aged(9.0, 0.0), producer, count=2, max_age_s=10.0, **BLOCK).run()
    assert producer.calls == [[0, 1], [1]]
    assert (summary.accepted, summary.too_old, summary.refused_full) == (1, 1, 0)


def test_frames_that_are_sent_to_expire_wait_too(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their deadlines are past on purpose, so that each gets the result `expired`."""
    producer = FullProducer(settings, {0: Bound.ITEMS, 1: Bound.ITEMS}, retry_after_s=2.0)
    change = {"max_age_s": 10.0, "too_old": TooOld.EXPIRE, "deadline_ms": 60_000.0}
    summary = full_camera(monkeypatch, aged(9.0, 0.0), producer, count=2, **change, **BLOCK).run()
    assert (summary.accepted, summary.too_old, summary.refused_full) == (2, 0, 0)
    assert [job["deadline_at"] for job in queued(client)] == [NOW + 1.0, NOW + 60.0]


def test_a_stop_ends_the_wait_and_names_what_was_not_sent(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    producer = FullProducer(settings, *[{0: Bound.ITEMS, 2: Bound.ITEMS}] * 99, retry_after_s=60.0)
    camera = full_camera(monkeypatch, Frames(), producer, on_wait=threading.Event.set, **BLOCK)
    summary = camera.run()
    assert (summary.accepted, summary.unsent, summary.refused_full) == (1, 2, 0)
    assert producer.called_at == [0.0]
    assert summary.blocked_s <= 0.2
    assert "stopped while the queue was full; 2 not sent, by name: frame 0, frame 2" in caplog.text


def test_a_server_that_is_away_while_frames_wait_gets_each_once(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full, then away, then full again, then it takes the frames; the times are counted apart."""

    class Producer(FullProducer):
        def send(self, jobs, *, partial=False):  # type: ignore[no-untyped-def]
            if len(self.calls) == 1:
                self.calls.append([])
                self.called_at.append(-1.0)
                self.now += 2.0
                raise RedisUnavailable("no Redis server answers at redis://here.")
            super().send(jobs, partial=partial)

    producer = Producer(settings, {1: Bound.ITEMS, 2: Bound.ITEMS}, {2: Bound.ITEMS}, retry_after_s=1.0)
    summary = full_camera(monkeypatch, Frames(), producer, **BLOCK).run()
    assert (summary.accepted, summary.refused_full, summary.unsent) == (3, 0, 0)
    assert (summary.blocked_s, summary.stalled_s) == (2.0, 3.0)
    assert frame_ids(client) == [0, 1, 2]


def test_an_outage_of_a_camera_that_drops_is_no_refusal(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.camera._RETRY_S", 0.0)
    producer = FlakyProducer(settings, failures=2, written=True, on_failure=lambda: None)
    summary = Camera(options(line="away"), Frames(), producer).run()
    assert (summary.accepted, summary.refused_full) == (3, 0)
    assert refused("away") == {}


def test_the_wait_is_logged_once_a_minute(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    producer = FullProducer(settings, *[{0: Bound.ITEMS}] * 25, retry_after_s=5.0)
    assert full_camera(monkeypatch, Frames(), producer, count=1, **BLOCK).run().blocked_s == 125.0
    waits = [text for text in caplog.messages if "waiting for the queue" in text]
    assert len(waits) == 3
    assert waits[1].endswith("It has waited 60.0 s so far.")


def test_no_picture_of_a_folder_is_lost_however_small_the_queue(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They wait in the folder and in the camera while a worker takes one after the other."""
    names = [f"{number:02}.jpg" for number in range(20)]
    for number, name in enumerate(names):
        write(tmp_path / name, PICTURES[number % len(PICTURES)], age_s=60)
    small = LineProducer(settings.model_copy(update={"queue_max_items": 2, "line_share": 1.0}))
    monkeypatch.setattr("producer.camera.pause_s", lambda error: 0.01)
    with closing(FolderSource(tmp_path, max_image_bytes=MAX_IMAGE_BYTES)) as source:
        camera = Camera(options(count=20, **BLOCK), source, small)
        thread = threading.Thread(target=camera.run)
        thread.start()
        taken: list[object] = []
        while len(taken) < 20:
            wait_until(lambda: client.llen(keys.rq_queue("live")), "the next picture comes")
            job_id = client.lpop(keys.rq_queue("live"))
            taken.append(arguments(client, job_id.decode())["frame_id"])
        thread.join()
    assert taken == names
    summary = camera.summary()
    assert (summary.accepted, summary.refused_full, summary.unsent, summary.missed) == (20, 0, 0, 0)


def test_a_folder_camera_that_is_stopped_while_it_waits_sends_the_rest_after_its_restart(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, journal = tmp_path / "images", tmp_path / "journal.sqlite"
    folder.mkdir()
    for number in range(3):
        write(folder / f"{number}.jpg", PICTURES[number], age_s=60)
    sent = []
    for limit in (1, 20_000):
        producer = LineProducer(settings.model_copy(update={"queue_max_items": limit, "line_share": 1.0}))
        stop = threading.Event()
        monkeypatch.setattr(stop, "wait", lambda timeout_s, stop=stop: stop.set() or True)
        with closing(FolderSource(folder, max_image_bytes=MAX_IMAGE_BYTES, journal=SentJournal(journal))) as source:
            count = 3 if limit == 1 else 2
            sent.append(Camera(options(count=count, **BLOCK), source, producer, stop=stop).run())
    assert [(summary.accepted, summary.unsent) for summary in sent] == [(1, 2), (2, 0)]
    assert sorted(map(str, frame_ids(client))) == ["0.jpg", "1.jpg", "2.jpg"]
