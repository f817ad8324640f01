"""The archive in the pipeline: what it keeps, and what stays on the server for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from producer.frames import Frame
from producer.submit import LineProducer
from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.archive.kit import archived, components, counts, files, images_on, result
from tests.worker.kit import Clock, Gate, ToneEngine, always_fails, frame, picture
from worker.archive.archive import open_archive
from worker.pipeline import PipelineComponents

UNCERTAIN_RED = 126  # P(no cap) just below its threshold
HOUR_MS = 3_600_000.0


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


def test_a_share_is_kept_and_the_rest_is_deleted_at_once(archiving: Settings, root: Path) -> None:
    job_ids = kit.submit(archiving, *[frame(picture(tone)) for tone in range(100)])
    parts = run_burst(archiving.model_copy(update={"archive_share": 0.3}))
    assert 10 <= len(archived(root)) <= 55
    assert counts(parts) == {"written": len(archived(root))}
    assert set(archived(root)) == {
        job_id for job_id in job_ids if parts.archive and parts.archive._selection.wants(result(job_id))
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


# the server's memory ────────────────────────────────────────────────────────────────────────────────


def test_an_image_stays_on_the_server_until_it_is_read(archiving: Settings, client: redis.Redis, root: Path) -> None:
    root.rmdir()
    settings = only(archiving, "sorted")
    parts = components(settings)
    run = kit.pipeline(settings, parts)
    run.start()
    kept, _ = kit.submit(settings, frame(picture(9)), frame(kit.broken_picture()))
    kit.wait_until(lambda: len(kit.stream(client)) == 2, "both are answered")
    ((key, ttl_s),) = images_on(client).items()
    assert key.startswith(keys.kept_image(kept, "")), "the other one is deleted at once"
    assert keys.KEPT_IMAGE_S - kit.PATIENCE_S <= ttl_s <= keys.KEPT_IMAGE_S
    root.mkdir()
    kit.wait_until(lambda: counts(parts) == {"written": 1}, "it is written")
    assert images_on(client) == {}
    run.drain()
    kit.finish(run)


def test_a_job_that_is_sent_again_does_not_take_the_image_away(
    archiving: Settings, client: redis.Redis, root: Path
) -> None:
    """The producer deletes the image of a job that it finds finished."""
    root.rmdir()
    settings = only(archiving, "sorted")
    parts = components(settings)
    run = kit.pipeline(settings, parts)
    run.start()
    prepared = kit.prepare(settings, [frame(picture(9))])
    LineProducer(settings).send(prepared)
    kit.wait_until(lambda: len(kit.stream(client)) == 1, "it is answered")
    LineProducer(settings).send(prepared)
    root.mkdir()
    kit.wait_until(lambda: counts(parts) == {"written": 1}, "it is written")
    run.drain()
    kit.finish(run)


def test_the_image_of_a_failed_job_stays_for_a_requeue(archiving: Settings, client: redis.Redis, root: Path) -> None:
    (job_id,) = kit.submit(archiving, frame())
    parts = run_burst(archiving.model_copy(update={"max_attempts": 1}), ToneEngine(always_fails))
    assert counts(parts) == {"written": 1}
    assert images_on(client)[keys.image(job_id)] > keys.KEPT_IMAGE_S


def test_large_images_that_come_at_once_are_all_kept(archiving: Settings, client: redis.Redis, root: Path) -> None:
    """Together they are larger than what may wait for the disk, which is idle."""
    large = bytes(2_300_000)
    settings = only(archiving, "rejected,failed").model_copy(update={"max_batch": 16, "max_attempts": 1})
    sent = kit.submit(settings, *[frame(kit.broken_picture() + large)] * 10, *[frame(picture() + large)] * 10)
    parts = run_burst(settings, ToneEngine(always_fails))
    assert sorted(kit.outcomes(client).values()) == ["failed"] * 10 + ["rejected"] * 10
    assert counts(parts) == {"written": 20}
    assert set(archived(root)) == set(sent)
