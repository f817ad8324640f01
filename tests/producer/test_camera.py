"""The camera: its pace, and what becomes of every frame when the queue is full, the file bad or the server away."""

from __future__ import annotations

import logging
import re
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import redis

from producer.camera import Camera
from producer.camera_options import TooOld
from producer.camera_summary import CameraSummary
from producer.queue_writer import CHUNK_JOBS
from producer.sources.base import SourceFrame
from producer.sources.folder import FolderSource
from producer.submit import LineProducer
from shared import keys
from shared.errors import BadSetting
from shared.settings import Settings
from tests.producer.camera_kit import Frames, options, stalled_camera, submitted
from tests.producer.kit import arguments, jpeg
from tests.producer.sources.kit import MAX_IMAGE_BYTES, PICTURES, write


def test_frames_arrive_with_their_options(client: redis.Redis, settings: Settings) -> None:
    chosen = options(deadline_ms=50.0, queue="bulk", encoder_per_frame=10)
    summary = Camera(chosen, Frames(), LineProducer(settings)).run()
    assert (summary.frames, summary.accepted, summary.refused_full, summary.rejected, summary.unsent) == (3, 3, 0, 0, 0)
    jobs = [arguments(client, job_id.decode()) for job_id in client.lrange(keys.rq_queue("bulk"), 0, -1)]
    assert [(job["frame_id"], job["encoder_count"]) for job in jobs] == [(0, 0), (1, 10), (2, 20)]
    assert all(job["deadline_at"] == pytest.approx(job["captured_at"] + 0.05, abs=0.001) for job in jobs)  # type: ignore[operator]


def test_as_fast_as_possible_goes_in_chunks_and_ends_at_the_count(client: redis.Redis, settings: Settings) -> None:
    source = Frames()
    assert Camera(options(count=CHUNK_JOBS + 5), source, LineProducer(settings)).run().accepted == CHUNK_JOBS + 5
    assert source.limits == [CHUNK_JOBS, 5]
    assert client.llen(keys.rq_queue("live")) == CHUNK_JOBS + 5


def test_a_full_queue_drops_frames_counts_and_names_them(
    client: redis.Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    before = {outcome: submitted("full", outcome) for outcome in ("accepted", "refused_full")}
    producer = LineProducer(settings.model_copy(update={"queue_max_items": 2, "line_share": 1.0}))
    summary = Camera(options(line="full", count=5, rate_hz=1000.0), Frames(), producer).run()
    # It depends on the clock how many frames share a call, but the first two always find a place.
    assert (summary.frames, summary.accepted, summary.refused_full) == (5, 2, 3)
    waiting = [arguments(client, job_id.decode()) for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]
    assert [job["frame_id"] for job in waiting] == [0, 1]
    assert submitted("full", "refused_full") - before["refused_full"] == summary.refused_full
    assert submitted("full", "accepted") - before["accepted"] == summary.accepted
    assert re.search(r"frames? dropped \(items\): frame 2\b", caplog.text)
    assert "its limit is 2" in caplog.text


def test_frames_that_are_due_at_once_take_the_free_places(client: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(settings.model_copy(update={"queue_max_items": 3, "line_share": 1.0}))
    source = Frames()
    summary = Camera(options(count=5), source, producer).run()  # as fast as possible: one call
    assert (summary.accepted, summary.refused_full) == (3, 2)
    assert source.sent == ["frame 0", "frame 1", "frame 2"]
    assert client.llen(keys.rq_queue("live")) == 3


def test_every_dropped_frame_is_named_in_the_log(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "producer.camera")
    producer = LineProducer(settings.model_copy(update={"queue_max_items": 1, "line_share": 1.0}))
    Camera(options(count=40), Frames(), producer).run()
    assert "frame frame 0 dropped" not in caplog.text
    for number in range(1, 40):
        assert f"frame frame {number} dropped" in caplog.text


def test_a_bad_frame_is_reported_and_its_neighbors_are_sent(
    client: redis.Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    special = {
        1: SourceFrame("notes.txt", "notes.txt", b"no image"),
        2: SourceFrame("locked.jpg", "locked.jpg", problem="can't be read: Permission denied"),
    }
    before = submitted("line-1", "rejected")
    summary = Camera(options(count=4), Frames(special), LineProducer(settings)).run()
    assert (summary.frames, summary.accepted, summary.rejected) == (4, 2, 2)
    assert submitted("line-1", "rejected") - before == 2
    assert "notes.txt rejected: not an accepted image" in caplog.text
    assert "locked.jpg rejected: can't be read: Permission denied" in caplog.text


def test_an_endless_camera_stops_when_asked(settings: Settings) -> None:
    stop = threading.Event()
    camera = Camera(
        options(count=None), Frames(), LineProducer(settings), stop=stop, on_progress=lambda summary: stop.set()
    )
    assert camera.run().accepted == CHUNK_JOBS


def test_a_bad_name_is_refused_before_the_first_frame(settings: Settings) -> None:
    source = Frames()
    with pytest.raises(BadSetting, match="line = 'a/b'"):
        Camera(options(line="a/b"), source, LineProducer(settings)).run()
    assert source.number == 0


def frames_of_ages(*ages_s: float, now: float = 1_700_000_000.0) -> Frames:
    return Frames({n: SourceFrame(n, f"frame {n}", jpeg(), captured_at=now - age_s) for n, age_s in enumerate(ages_s)})


def test_frames_keep_their_times_of_capture(client: redis.Redis, settings: Settings) -> None:
    Camera(options(count=2, deadline_ms=300.0), frames_of_ages(0.0, 3600.0), LineProducer(settings)).run()
    jobs = [arguments(client, job_id.decode()) for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]
    assert [(job["captured_at"], job["deadline_at"]) for job in jobs] == [
        (1_700_000_000.0, 1_700_000_000.3),
        (1_699_996_400.0, 1_699_996_400.3),
    ]


def test_what_the_source_finds_too_old_is_counted_and_not_sent(
    client: redis.Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    before = submitted("line-1", "too_old")
    special = {n: SourceFrame(n, f"frame {n}", too_old=True) for n in range(2)}
    source = Frames(special)
    summary = Camera(options(max_age_s=2.0), source, LineProducer(settings)).run()
    assert (summary.frames, summary.accepted, summary.too_old, summary.rejected) == (3, 1, 2, 0)
    assert submitted("line-1", "too_old") - before == 2
    assert source.sent == ["frame 2"]
    assert client.llen(keys.rq_queue("live")) == 1
    assert "2 frames not sent: frame 0, frame 1: captured more than 2 s ago (--max-age)" in caplog.text


def test_what_is_too_old_does_not_hold_up_a_paced_camera(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    special = {n: SourceFrame(n, f"frame {n}", too_old=True) for n in range(1000)}
    camera, producer = stalled_camera(monkeypatch, settings, Frames(special), failures=0, count=1001, max_age_s=2.0)
    began_at = producer.now
    assert camera.run().too_old == 1000
    assert producer.now - began_at < 1.0


def test_what_becomes_too_old_while_the_server_is_away_is_not_sent(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The frames are dropped during the outage. That does not count as the end of the outage."""
    source = frames_of_ages(0.0)
    camera, _ = stalled_camera(monkeypatch, settings, source, failures=6, max_age_s=4.5)
    summary = camera.run()
    assert (summary.frames, summary.accepted, summary.too_old, summary.unsent) == (3, 1, 2, 0)
    assert source.sent[0] not in ("frame 0", "frame 1")
    assert summary.stalled_s == 12.0
    assert caplog.text.count("answers again") == 1
    assert client.llen(keys.rq_queue("live")) == 1


def test_what_is_too_old_is_sent_so_that_it_expires_if_asked_for(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old frame gets a deadline that is past; the new frame has none."""
    source = frames_of_ages(60.0, 0.0)
    camera, _ = stalled_camera(monkeypatch, settings, source, failures=0, count=2, max_age_s=2.0, too_old=TooOld.EXPIRE)
    summary = camera.run()
    assert (summary.accepted, summary.too_old) == (2, 0)
    jobs = [arguments(client, job_id.decode()) for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]
    assert [job["deadline_at"] for job in jobs] == [1_699_999_942.0, None]


def test_what_gets_too_old_during_an_outage_expires_if_asked_for(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a deadline of its own, the picture would be sorted as if it were new."""
    change = {"count": 1, "max_age_s": 4.5, "too_old": TooOld.EXPIRE}
    camera, _ = stalled_camera(monkeypatch, settings, frames_of_ages(0.0), failures=6, **change)
    assert camera.run().accepted == 1
    (job,) = [arguments(client, job_id.decode()) for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]
    assert job["deadline_at"] == 1_700_000_004.5


def test_the_log_tells_how_old_the_pictures_are(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong clock or time zone shows: all pictures are an hour old."""
    now = 1_700_000_000.0
    special = {0: SourceFrame(0, "frame 0", too_old=True, captured_at=now - 3600.2)}
    Camera(options(count=1, max_age_s=2.0), Frames(special), LineProducer(settings), wall_clock=lambda: now).run()
    assert "captured more than 2 s ago (--max-age), the last one 3,600.2 s ago" in caplog.text


def test_the_same_picture_of_a_file_is_the_same_job_and_another_is_another(
    client: redis.Redis, settings: Settings
) -> None:
    """A camera that is killed before it records a sent file sends the file again; the server ignores the job."""
    for key in (b"a.jpg 1", b"a.jpg 1", b"a.jpg 2"):
        special = {0: SourceFrame("a.jpg", "a.jpg", jpeg(), picture_key=key)}
        assert Camera(options(count=1), Frames(special), LineProducer(settings)).run().accepted == 1
    assert client.llen(keys.rq_queue("live")) == 2
    Camera(options(count=1, camera="camera-2"), Frames(special), LineProducer(settings)).run()
    assert client.llen(keys.rq_queue("live")) == 3


def test_new_pictures_from_a_clock_that_is_behind_are_reported_once(
    client: redis.Redis, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that were in the folder at the start are old, and their age says nothing about a clock."""

    def go_on(summary: CameraSummary) -> None:
        if summary.frames == 1:
            assert "time of capture" not in caplog.text
        time.sleep(0.05)  # the kernel's times of files are some milliseconds behind
        write(tmp_path / f"new-{summary.frames}.jpg", PICTURES[summary.frames], age_s=3600)

    write(tmp_path / "old.jpg", PICTURES[0], age_s=3600)
    with closing(FolderSource(tmp_path, max_image_bytes=MAX_IMAGE_BYTES)) as source:
        chosen = options(deadline_ms=300.0)
        assert Camera(chosen, source, LineProducer(settings), on_progress=go_on).run().accepted == 3
    assert caplog.text.count("time of capture") == 1
    assert re.search(r"line line-1: new-1\.jpg came into the folder 3,600\.\d s after its time of capture", caplog.text)
