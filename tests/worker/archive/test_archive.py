"""The archive in the pipeline: what it keeps, what it drops and logs, and that no line waits for it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.submit import Frame, LineProducer
from shared.settings import Settings
from tests.worker import kit
from tests.worker.archive.kit import archived, components, counts, files, result
from tests.worker.archive.test_folder import files_of_at_most
from tests.worker.kit import Clock, Gate, ToneEngine, always_fails, frame, picture
from worker.archive import archive as archive_module
from worker.archive.archive import Archive, open_archive
from worker.archive.files import as_host, stem_of
from worker.archive.held_image import RECORD_BYTES
from worker.pipeline import Pipeline, PipelineComponents

UNCERTAIN_RED = 126  # P(no cap) just below its threshold
HOUR_MS = 3_600_000.0
AT = float(round(time.time()))  # the time of every result in tests that must know a file's name beforehand


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The archive's folder."""
    root = tmp_path / "archive"
    root.mkdir()
    return root


@pytest.fixture
def archiving(settings: Settings, root: Path) -> Settings:
    """Settings that archive every image."""
    return settings.model_copy(update={"archive_dir": root, "archive_share": 1.0})


def only(archiving: Settings, outcomes: str) -> Settings:
    """Settings that archive images with these outcomes, and no other."""
    return archiving.model_copy(update={"archive_share": 0.0, "archive_outcomes": outcomes})


def run_burst(
    settings: Settings, engine: ToneEngine | None = None, *, clock: Callable[[], float] = time.time
) -> PipelineComponents:
    """Work until the queues are empty and everything is archived."""
    parts = components(settings, engine)
    run = kit.pipeline(settings, parts, burst=True, clock=clock)
    run.start()
    kit.finish(run)
    return parts


# what is kept ───────────────────────────────────────────────────────────────────────────────────────


def test_every_image_is_kept_as_it_came_with_the_result_that_was_published(
    archiving: Settings, client: redis.Redis, root: Path
) -> None:
    images = [picture(tone) for tone in range(0, 250, 25)] + [kit.broken_picture()]
    images.append(picture(size_px=2000))  # costly: decoded by a stage of its own
    sent = dict(zip(kit.submit(archiving, *map(frame, images)), images, strict=True))
    parts = run_burst(archiving)
    found = archived(root)
    assert {job_id: image for job_id, (image, _) in found.items()} == sent
    assert {job_id: result for job_id, (_, result) in found.items()} == {
        result.job_id: result for result in kit.stream(client)
    }
    assert counts(parts) == {"written": len(sent)}


@pytest.fixture
def one_of_each(archiving: Settings, client: redis.Redis) -> Callable[[Settings], dict[str, str]]:
    """A function that sorts a job of each kind and returns each job's kind, by job id."""

    def work(settings: Settings) -> dict[str, str]:
        clock, settings = Clock(), settings.model_copy(update={"max_batch": 1, "max_attempts": 1})
        frames: dict[str, Frame] = {
            "sorted": frame(picture(250)),
            "uncertain": frame(picture(UNCERTAIN_RED)),
            "rejected": frame(kit.broken_picture()),
            "expired": frame(captured_at=time.time() - 9, deadline_ms=10),
            "failed": frame(picture(1, 250)),
            "late": frame(picture(0, 100), deadline_ms=HOUR_MS),
        }
        kinds = dict(zip(kit.submit(settings, *frames.values()), frames, strict=True))

        def engine(batch: kit.Pixels) -> None:
            green = batch[..., 1].mean(axis=(1, 2))
            if (green > 200).any():
                raise RuntimeError("can't stand green")
            if (green > 90).any():
                clock.pass_by(HOUR_MS / 1000)

        parts = components(settings, ToneEngine(engine))
        run = kit.pipeline(settings, parts, burst=True, clock=clock)
        run.start()
        kit.finish(run)
        outcomes = kit.outcomes(client)
        assert {kind: outcomes[job_id] for job_id, kind in kinds.items()} == {
            kind: "sorted" if kind == "uncertain" else kind for kind in frames
        }
        return kinds

    return work


@pytest.mark.parametrize("outcome", ["sorted", "uncertain", "rejected", "expired", "failed", "late"])
def test_only_images_with_the_chosen_outcome_are_kept(
    archiving: Settings, root: Path, one_of_each: Callable[[Settings], dict[str, str]], outcome: str
) -> None:
    kinds = one_of_each(only(archiving, outcome))
    wanted = {"sorted", "uncertain"} if outcome == "sorted" else {outcome}
    assert {kinds[job_id] for job_id in archived(root)} == wanted


def test_several_outcomes_can_be_chosen(
    archiving: Settings, root: Path, one_of_each: Callable[[Settings], dict[str, str]]
) -> None:
    kinds = one_of_each(only(archiving, "uncertain, rejected, failed"))
    assert {kinds[job_id] for job_id in archived(root)} == {"uncertain", "rejected", "failed"}


def test_a_share_is_kept_and_the_rest_is_not_even_held(archiving: Settings, root: Path) -> None:
    job_ids = kit.submit(archiving, *[frame(picture(tone)) for tone in range(100)])
    parts = run_burst(archiving.model_copy(update={"archive_share": 0.3}))
    assert 10 <= len(archived(root)) <= 55
    assert counts(parts) == {"written": len(archived(root))}
    assert set(archived(root)) == {
        job_id for job_id in job_ids if parts.archive and parts.archive._selection.may_want(job_id)
    }


def test_an_image_whose_answer_was_cached_is_kept_too(archiving: Settings, root: Path) -> None:
    parts = components(archiving)
    run = kit.pipeline(archiving, parts)
    run.start()
    job_ids = kit.submit(archiving, frame(picture(9), queue="bulk"))
    kit.wait_until(lambda: counts(parts) == {"written": 1}, "the first one is archived, so its answer is cached")
    job_ids += kit.submit(archiving, frame(picture(9), queue="bulk"))
    kit.wait_until(lambda: counts(parts) == {"written": 2}, "the second one is archived")
    run.drain()
    kit.finish(run)
    assert parts.metrics.registry.get_sample_value("sortline_result_cache_total", {"result": "hit"}), "none was cached"
    assert {job_id: image for job_id, (image, _) in archived(root).items()} == dict.fromkeys(job_ids, picture(9))


def test_a_job_that_is_retried_is_kept_once(archiving: Settings, root: Path) -> None:
    calls = iter([RuntimeError("once"), RuntimeError("twice")])

    def fails_twice(batch: kit.Pixels) -> None:
        if (error := next(calls, None)) is not None:
            raise error

    (job_id,) = kit.submit(archiving, frame())
    parts = run_burst(archiving, ToneEngine(fails_twice))
    assert archived(root)[job_id][1].attempt == 3
    assert counts(parts) == {"written": 1}


def test_a_job_that_another_worker_has_taken_over_is_not_kept(
    archiving: Settings, client: redis.Redis, root: Path
) -> None:
    """The other worker writes its result, and archives it."""
    gate = Gate()
    parts = components(archiving, ToneEngine(gate))
    run = kit.pipeline(archiving, parts)
    run.start()
    (job_id,) = kit.submit(archiving, frame())
    assert gate.entered.wait(kit.PATIENCE_S)
    (lease,) = run._flow.inflight.held()
    client.zrem("rq:wip:live", f"{job_id}:{lease.execution_id}")  # as if its lease had expired
    gate.opened.set()
    kit.wait_until(lambda: run.idle, "the job is finished")
    run.drain()
    kit.finish(run)
    assert kit.outcomes(client) == {}
    assert files(root) == []
    assert counts(parts) == {}
    assert held_bytes(parts) == 0


def test_an_image_that_is_gone_is_counted(archiving: Settings, client: redis.Redis, root: Path) -> None:
    gone, too_long = kit.submit(archiving, frame(), frame(picture() + bytes(5000)))
    client.delete(f"sortline:image:{gone}")
    parts = run_burst(archiving.model_copy(update={"max_image_bytes": 4000}))
    assert kit.outcomes(client) == {gone: "rejected", too_long: "rejected"}
    assert files(root) == []
    assert counts(parts) == {"no_image": 2}


def test_without_a_folder_there_is_no_archive_and_no_stage(settings: Settings) -> None:
    parts = components(settings)
    assert parts.archive is None
    assert "archive" not in [stage.name for stage in kit.pipeline(settings, parts)._stages()]


def test_an_archive_that_keeps_nothing_is_logged(
    archiving: Settings, caplog: pytest.LogCaptureFixture, root: Path
) -> None:
    assert open_archive(only(archiving, ""), metrics=kit.Metrics()) is not None
    assert caplog.messages == [
        f"archive_dir {root}: nothing is archived, as archive_share is 0 and archive_outcomes is empty"
    ]


# memory ─────────────────────────────────────────────────────────────────────────────────────────────


def held_bytes(parts: PipelineComponents) -> int:
    """What the archive counts as held."""
    assert parts.archive is not None
    return parts.archive._budget._held_bytes


def test_a_held_image_counts_until_it_is_written_or_not_wanted(archiving: Settings) -> None:
    gate = Gate()
    settings = only(archiving, "rejected")
    parts = components(settings, ToneEngine(gate))
    run = kit.pipeline(settings, parts)
    run.start()
    kit.submit(settings, frame(picture(9)), frame(kit.broken_picture()))
    kit.wait_until(lambda: counts(parts) == {"written": 1}, "the rejected one is written")
    assert gate.entered.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: held_bytes(parts) == len(picture(9)) + RECORD_BYTES, "only the other one is held")
    gate.opened.set()
    kit.wait_until(lambda: run.idle, "the job is finished")
    run.drain()
    kit.finish(run)
    assert held_bytes(parts) == 0


def test_images_of_failed_attempts_are_not_held(archiving: Settings) -> None:
    kit.submit(archiving, *[frame() for _ in range(5)])
    # pytest keeps the log records, and with them the images of the batch that each record refers to.
    one_by_one = archiving.model_copy(update={"max_batch": 1})
    parts = run_burst(one_by_one, ToneEngine(always_fails))
    assert counts(parts) == {"written": 5}
    assert held_bytes(parts) == 0


# disks that do not work ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "RETRY_WAIT_S", 0.01)


def troubles(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the archive has logged, except its first message, which says that it starts."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "sortline.archive" and not record.getMessage().startswith("archiving ")
    ]


class Passing:
    """A monotonic clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def quiet() -> Passing:
    """The clock by which an archive tells that it works again: it must have had no trouble for a while."""
    return Passing()


def started(settings: Settings, quiet: Passing, *, clock: Callable[[], float] = time.time, **options: Any) -> Pipeline:
    """A running pipeline whose archive has these options."""
    parts = kit.pipeline_components(settings, ToneEngine())
    archive = open_archive(settings, metrics=parts.metrics)
    assert archive is not None
    archive = Archive(archive._folder, archive._selection, metrics=parts.metrics, monotonic=quiet, **options)
    run = kit.pipeline(settings, replace(parts, archive=archive), clock=clock)
    run.start()
    return run


def sort(run: Pipeline, settings: Settings, client: redis.Redis, *images: bytes) -> list[str]:
    """Submit these images and wait until they are sorted; their job ids."""
    before = len(kit.stream(client))
    job_ids = kit.submit(settings, *map(frame, images))
    kit.wait_until(lambda: len(kit.stream(client)) == before + len(job_ids), "the line goes on")
    return job_ids


def test_a_full_disk_is_logged_once_and_so_is_its_recovery(
    archiving: Settings, client: redis.Redis, root: Path, quiet: Passing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = started(archiving, quiet)
    small = sort(run, archiving, client, picture(1))
    with files_of_at_most(100_000):
        kit.wait_until(lambda: set(archived(root)) == set(small), "the first one is written")
        sort(run, archiving, client, *[picture() + bytes(200_000) for _ in range(5)])
        kit.wait_until(lambda: counts(run._components) == {"written": 1, "failed": 5}, "five are counted")
        # The disk still takes small images. That is not a recovery: the next large one would fail again.
        small += sort(run, archiving, client, picture(2))
        kit.wait_until(lambda: counts(run._components) == {"written": 2, "failed": 5}, "it is counted")
    assert set(archived(root)) == set(small)
    assert os.listdir(root / ".incoming") == []
    (said,) = troubles(caplog)
    assert said.startswith(f"archive_dir {root}: an image is too large for it: ")
    quiet.now += 60
    large = sort(run, archiving, client, picture() + bytes(200_000))
    kit.wait_until(lambda: counts(run._components) == {"written": 3, "failed": 5}, "it works again")
    run.drain()
    kit.finish(run)
    assert set(archived(root)) == {*small, *large}
    assert troubles(caplog)[1:] == [f"archive_dir {root} works again; 5 images were not archived"]


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_bad_folder_is_logged_at_the_start_and_used_once_it_is_fixed(
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: Passing,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    root.rmdir()
    if kind == "file":
        root.write_bytes(b"")
    run = started(archiving, quiet)
    kit.wait_until(lambda: troubles(caplog), "the trouble is logged")
    job_ids = sort(run, archiving, client, *[picture(tone) for tone in range(20)])
    assert len(troubles(caplog)) == 1
    root.unlink(missing_ok=True)
    root.mkdir()
    kit.wait_until(lambda: counts(run._components) == {"written": 20}, "the waiting images are written")
    assert set(archived(root)) == set(job_ids)
    run.drain()
    kit.finish(run)


def test_a_folder_that_disappears_is_not_created_again(
    archiving: Settings, client: redis.Redis, root: Path, quiet: Passing, caplog: pytest.LogCaptureFixture
) -> None:
    run = started(archiving, quiet)
    sort(run, archiving, client, picture(1))
    kit.wait_until(lambda: len(files(root)) == 2, "it is written")
    away = root.rename(root.with_name("unmounted"))
    sort(run, archiving, client, *[picture(tone) for tone in range(5)])
    kit.wait_until(lambda: troubles(caplog), "the trouble is logged")
    assert not root.exists()
    away.rename(root)
    kit.wait_until(lambda: sum(counts(run._components).values()) == 6, "all are counted")
    assert len(archived(root)) == counts(run._components)["written"] > 1, "the archive writes to the folder again"
    run.drain()
    kit.finish(run)
    assert len(troubles(caplog)) == 1


@pytest.fixture
def hang(root: Path) -> Iterator[Callable[[str], Path]]:
    """A function that makes the disk hang while the image of this job, sorted at AT, is written.

    It returns the path of a pipe in the image's place. The write goes on when somebody reads this pipe.
    """
    made: list[Path] = []

    def hang(job_id: str) -> Path:
        name = Path(stem_of(result(job_id, finished_at=AT), host=as_host(socket.gethostname()))).name
        path = root / ".incoming" / f"{name}.png"
        path.parent.mkdir()
        os.mkfifo(path)
        made.append(path)
        return path

    yield hang
    for path in made:  # if a test failed, the archive's thread would otherwise hang until the test run ends
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def jobs_of_results(root: Path) -> set[str]:
    """The jobs whose results are in an archive: `archived` can't be used where the first image is a pipe."""
    return {json.loads(path.read_bytes())["job_id"] for path in files(root) if path.suffix == ".json"}


def test_no_line_waits_for_a_disk_that_hangs(
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: Passing,
    hang: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """More images come than may wait for the archive: all are sorted, and those that find no room are counted."""
    caplog.set_level(logging.INFO)
    (first,) = kit.prepare(archiving, [frame()])
    path = hang(first.job_id)
    run = started(archiving, quiet, clock=lambda: AT, max_held_bytes=10 * (len(picture()) + RECORD_BYTES))
    LineProducer(archiving).send([first])
    kit.wait_until(lambda: kit.stream(client), "the first one is sorted")
    waiting = sort(run, archiving, client, *[picture()] * 9)
    sort(run, archiving, client, *[picture()] * 20)
    kit.wait_until(lambda: counts(run._components) == {"dropped": 20}, "they are counted")
    assert "archive" not in run.supervisor.silent(longer_than_s=0), "the worker would be restarted"
    (said,) = troubles(caplog)
    assert said.startswith(f"archive_dir {root}: 0 MB of images wait to be written, and no more may: ")
    quiet.now += 60
    assert path.read_bytes() == picture()
    kit.wait_until(lambda: counts(run._components) == {"dropped": 20, "written": 10}, "the waiting images are written")
    assert jobs_of_results(root) == {first.job_id, *waiting}
    run.drain()
    kit.finish(run)
    assert len(troubles(caplog)) == 2


def test_a_worker_that_ends_does_not_wait_for_a_disk_that_hangs(
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: Passing,
    hang: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (first,) = kit.prepare(archiving, [frame()])
    path = hang(first.job_id)
    run = started(archiving, quiet, clock=lambda: AT)
    LineProducer(archiving).send([first])
    kit.wait_until(lambda: kit.stream(client), "the first one is sorted")
    sort(run, archiving, client, *[picture()] * 5)
    run.drain()
    kit.wait_until(run.ended.is_set, "the pipeline ends")
    run.join(0.0)
    assert counts(run._components) == {"dropped": 5}
    assert troubles(caplog) == [f"archive_dir {root}: 5 images were not written before the worker ended"]
    path.read_bytes()
    assert run.supervisor.join(kit.PATIENCE_S)


def test_waiting_images_are_written_before_the_worker_ends(
    archiving: Settings, client: redis.Redis, root: Path, quiet: Passing, hang: Callable[[str], Path]
) -> None:
    """The disk hangs until every other thread has ended, and then goes on."""
    (first,) = kit.prepare(archiving, [frame()])
    path = hang(first.job_id)
    run = started(archiving, quiet, clock=lambda: AT)
    LineProducer(archiving).send([first])
    kit.wait_until(lambda: kit.stream(client), "the first one is sorted")
    job_ids = sort(run, archiving, client, *[picture(tone) for tone in range(20)])
    run.drain()
    kit.wait_until(run.ended.is_set, "every other thread has ended")
    path.read_bytes()
    assert run.supervisor.join(kit.PATIENCE_S)
    assert counts(run._components) == {"written": 21}
    assert jobs_of_results(root) == {first.job_id, *job_ids}
