"""`sortline camera` on folders, as real processes: killed, restarted, two at once, and without the server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis

from producer.folder_camera import FolderFlags, open_folder
from shared import keys
from shared.settings import Settings
from tests.e2e.kit import running, sortline
from tests.kit import PATIENCE_S, wait_until
from tests.producer.kit import arguments
from tests.producer.sources.kit import PICTURES, take, write
from torture.server.states import configured


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


def command(folder: Path, *more: str, camera: str = "camera-1") -> Sequence[str]:
    return ("camera", "--line", "line-1", "--source", str(folder), "--camera", camera, *more)


def queued(client: redis.Redis) -> list[dict[str, object]]:
    return [arguments(client, job_id.decode()) for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]


def frame_ids(client: redis.Redis) -> list[object]:
    return [job["frame_id"] for job in queued(client)]


def depth(client: redis.Redis) -> int:
    return int(client.llen(keys.rq_queue("live")))


def summary_of(process: subprocess.Popen[bytes], log: Path) -> dict[str, float]:
    """Stops a camera with --json and returns its summary."""
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0
    text = log.read_text()
    return dict(json.loads(text[text.rindex("\n{") : text.rindex("}") + 1]))


@pytest.mark.slow
def test_a_camera_that_is_killed_again_and_again_sends_each_file_once(
    settings: Settings, client: redis.Redis, folder: Path, tmp_path: Path
) -> None:
    odd = [os.fsdecode(b"caf\xe9.jpg"), "a\nb.jpg", "a b.jpg"]
    for number, name in enumerate([*(f"{n:04}.jpg" for n in range(500)), *odd]):
        write(folder / name, PICTURES[number % len(PICTURES)], age_s=60)
    for wanted in (1, 150, 300):
        with running("sortline", *command(folder), settings=settings, log=tmp_path / "log") as camera:
            wait_until(lambda wanted=wanted: depth(client) >= wanted, "it has sent some")
            camera.send_signal(signal.SIGKILL)
            camera.wait(PATIENCE_S)
    with running("sortline", *command(folder), settings=settings, log=tmp_path / "log"):
        write(folder / "last.jpg")
        wait_until(lambda: "last.jpg" in frame_ids(client), "it has sent the rest")
    counts = Counter(frame_ids(client))
    assert len(counts) == 504
    assert set(counts.values()) == {1}


def test_two_cameras_on_one_folder_each_send_all_of_it(
    settings: Settings, client: redis.Redis, folder: Path, tmp_path: Path
) -> None:
    for number in range(3):
        write(folder / f"{number}.jpg", age_s=60)
    for camera in ("camera-1", "camera-2"):
        done = sortline(*command(folder, "--count", "3", camera=camera), settings=settings)
        assert done.returncode == 0, done.stderr
    assert Counter((job["camera"], job["frame_id"]) for job in queued(client)) == {
        (camera, f"{number}.jpg"): 1 for camera in ("camera-1", "camera-2") for number in range(3)
    }


def test_files_that_are_sent_again_on_purpose_are_new_jobs(
    settings: Settings, client: redis.Redis, folder: Path, tmp_path: Path
) -> None:
    """A copy with the same time under the same name, and everything after the journal was deleted."""
    original = write(tmp_path / "original.jpg", age_s=60)
    once = command(folder, "--count", "1")
    for number in range(3):
        if number < 2:
            (folder / "a.jpg").unlink(missing_ok=True)
            shutil.copy2(original, folder / "a.jpg")
        else:
            shutil.rmtree(settings.state_path / "cameras")
        assert sortline(*once, "--delete" if number == 0 else "--recursive", settings=settings).returncode == 0
        assert frame_ids(client) == ["a.jpg"] * (number + 1)


def test_a_second_process_of_the_same_camera_is_refused(
    settings: Settings, client: redis.Redis, folder: Path, tmp_path: Path
) -> None:
    write(folder / "a.jpg", age_s=60)
    with running("sortline", *command(folder), settings=settings, log=tmp_path / "log"):
        wait_until(lambda: depth(client) == 1, "the first is at work")
        second = sortline(*command(folder), settings=settings)
    assert second.returncode == 2
    assert "another process sends this folder" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize("flags", [("--delete",), ("--move-to", "done")])
def test_only_accepted_files_are_deleted_or_moved(
    settings: Settings, client: redis.Redis, folder: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    write(folder / "good.jpg", age_s=60)
    write(folder / "bad.jpg", b"no picture", age_s=60)
    write(folder / "notes.txt")
    full = settings.model_copy(update={"queue_max_items": 1, "line_share": 1.0})
    write(folder / "refused.jpg", age_s=60)
    done = sortline(*command(folder, "--count", "3", "--json", *flags), settings=full)
    summary = json.loads(done.stdout)
    assert (summary["accepted"], summary["rejected"], summary["refused_full"]) == (1, 1, 1), done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["bad.jpg", "notes.txt", "refused.jpg"]
    assert (tmp_path / "done" / "good.jpg").exists() is (flags[0] == "--move-to")


def test_what_is_too_old_is_counted_or_sent_to_expire(settings: Settings, client: redis.Redis, folder: Path) -> None:
    write(folder / "old.jpg", age_s=3600)
    age = ("--max-age", "1800", "--count", "2", "--json")
    write(folder / "young.jpg", age_s=60)
    summary = json.loads(sortline(*command(folder, *age), settings=settings).stdout)
    assert (summary["frames"], summary["accepted"], summary["too_old"]) == (2, 1, 1)
    expire = command(folder, *age, "--too-old", "expire", camera="camera-2")
    summary = json.loads(sortline(*expire, settings=settings).stdout)
    assert (summary["frames"], summary["accepted"], summary["too_old"]) == (2, 2, 0)
    jobs = {(job["camera"], job["frame_id"]): job for job in queued(client)}
    assert set(jobs) == {("camera-1", "young.jpg"), ("camera-2", "old.jpg"), ("camera-2", "young.jpg")}
    old = jobs["camera-2", "old.jpg"]
    assert old["captured_at"] == pytest.approx((folder / "old.jpg").stat().st_mtime, abs=0.001)
    assert old["deadline_at"] == pytest.approx(old["captured_at"] + 1800, abs=0.001)  # type: ignore[operator]
    assert jobs["camera-2", "young.jpg"]["deadline_at"] is None


def test_a_camera_says_where_its_times_come_from(settings: Settings, folder: Path) -> None:
    write(folder / "1700000000.jpg", age_s=9)
    done = sortline(
        *command(folder, "--count", "1", "--stamp-pattern", "%s", "--capture-lag-ms", "250"), settings=settings
    )
    assert "time of capture: from its name (%s), minus 250 ms" in done.stderr
    assert str(settings.state_path / "cameras" / "line-1_camera-1_") in done.stderr


def test_a_file_renamed_into_the_folder_of_a_running_camera_is_sent(
    settings: Settings, client: redis.Redis, folder: Path, tmp_path: Path
) -> None:
    write(folder / "old.jpg", age_s=60)
    with running(
        "sortline", *command(folder, "--only-new", "--recursive"), settings=settings, log=tmp_path / "log"
    ) as camera:
        wait_until(
            lambda: "(--only-new): 1" in (tmp_path / "log").read_text(),
            "it has seen what was there",
        )
        (folder / "2026" / "11").mkdir(parents=True)
        write(tmp_path / "new.jpg").rename(folder / "2026" / "11" / "new.jpg")
        wait_until(lambda: depth(client) == 1, "it is sent")
        assert camera.poll() is None
    assert frame_ids(client) == ["2026/11/new.jpg"]


@pytest.mark.slow
def test_a_camera_counts_what_it_misses_while_the_server_refuses(
    settings: Settings, client: redis.Redis, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    simulated = ("camera", "--line", "line-1", "--source", "simulated", "--rate", "20", "--replay", "2")
    with running(
        "sortline", *simulated, "--size", "64x48", "--metrics-port", "0", "--json", settings=settings, log=log
    ) as camera:
        wait_until(lambda: depth(client) > 0, "it has begun")
        url = re.search(r"http://\S+", log.read_text())[0]  # type: ignore[index]
        with configured(client, "min-replicas-to-write", "1"):
            wait_until(lambda: missed(url) >= 10, "it counts what it misses")
        before = depth(client)
        wait_until(lambda: depth(client) > before + 5, "it sends again")
        summary = summary_of(camera, log)
    assert summary["missed"] >= 10
    assert summary["unsent"] == 0
    assert summary["stalled_s"] > 0
    assert summary["accepted"] == depth(client)
    ids = [int(str(frame_id)) for frame_id in frame_ids(client)]
    assert ids[-1] - ids[0] + 1 == len(ids) + summary["missed"]


def missed(url: str) -> float:
    with urllib.request.urlopen(url, timeout=10) as page:
        found = re.search(r'sortline_submitted_total\{line="line-1",outcome="missed"\} (\S+)', page.read().decode())
    return 0.0 if found is None else float(found[1])


def test_the_flags_of_a_folder_reach_its_source(settings: Settings, folder: Path, tmp_path: Path) -> None:
    done = folder / "done"
    done.mkdir()
    write(done / "sent.jpg")
    write(folder / "1700000000.jpg", age_s=60)
    flags = FolderFlags(stamp_pattern="%s", capture_lag_ms=500, recursive=True, move_to=done)
    source = open_folder(str(folder), flags, settings, line="l", camera="c", max_age_s=None)
    frames = take(source, 1)
    assert [(frame.name, frame.captured_at) for frame in frames] == [("1700000000.jpg", 1_699_999_999.5)]
    source.accepted(frames)
    source.close()
    assert sorted(path.name for path in done.iterdir()) == ["1700000000.jpg", "sent.jpg"]
