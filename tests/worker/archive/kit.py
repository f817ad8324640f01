"""Shared by the archive's tests: results to archive, the contents of an archive, and a limit on the sizes of files."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from shared.schemas import Outcome, SortResult
from shared.server.connection import connect
from shared.settings import Settings
from tests.kit import ManualClock, children_of, command_line
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame
from worker.archive.archive import Archive, open_archive
from worker.archive.backlog import MAX_WAITING_BYTES, Backlog
from worker.archive.files import stem_of
from worker.archive.selection import Selection
from worker.archive.writer import Writer
from worker.models.routing import Serving
from worker.pipeline import Pipeline, PipelineComponents
from worker.rq.kept_images import KeptImages

BLOCK_BYTES = 4096
AT = float(round(time.time()))  # the time of every result in tests that must know a file's name beforehand


def result(job_id: str = "j1", *, finished_at: float | None = None, **fields: Any) -> SortResult:
    """A result of the line `l1`."""
    values: dict[str, Any] = {"line": "l1", "camera": "c1", "captured_at": 0.0, "outcome": Outcome.SORTED, "lane": "a"}
    at = time.time() if finished_at is None else finished_at
    return SortResult(job_id=job_id, worker="w1", finished_at=at, **(values | fields))


def result_json(job_id: str = "j1", **fields: Any) -> bytes:
    """The same as JSON."""
    return result(job_id, **fields).model_dump_json().encode()


def stem(*, host: str, **fields: Any) -> str:
    """The path of such a result's files, relative to the archive and without the suffix."""
    return stem_of(result(**fields).model_dump(), host=host)


def archived(root: Path) -> dict[str, tuple[bytes, SortResult]]:
    """Image and result by job id; fails if a job lacks one of the two, or has several."""
    found: dict[str, tuple[bytes, SortResult]] = {}
    images = [path for path in files(root) if path.suffix != ".json"]
    for image in images:
        its_result = SortResult.model_validate_json(image.with_suffix(".json").read_bytes())
        assert its_result.job_id not in found, "archived twice"
        found[its_result.job_id] = (image.read_bytes(), its_result)
    assert len(images) * 2 == len(files(root)), "a result without its image"
    return found


def files(root: Path) -> list[Path]:
    """All files in an archive's folders of days, oldest first."""
    return sorted((path for path in root.glob("2*/*/*")), key=lambda path: (path.parts[-3], path.name))


def disk_bytes(root: Path) -> int:
    """The disk space that the files of an archive take, in whole blocks."""
    sizes = [path.stat().st_size for path in files(root)]
    return sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in sizes)


def components(
    settings: Settings, engine: ToneEngine | Serving | None = None, *, worker: str = "w1"
) -> PipelineComponents:
    """A pipeline's parts, with the archive that the settings ask for."""
    parts = kit.pipeline_components(settings, engine or ToneEngine(), worker=worker)
    return replace(parts, archive=open_archive(settings, metrics=parts.metrics))


def counts(parts: PipelineComponents) -> dict[str, int]:
    """`sortline_archive_total` by result, without those that are 0."""
    names = ("written", "dropped", "failed", "no_image")
    values = {
        name: parts.metrics.registry.get_sample_value("sortline_archive_total", {"result": name}) for name in names
    }
    return {name: int(value) for name, value in values.items() if value}


@contextmanager
def files_of_at_most(size_bytes: int, *, pid: int = 0) -> Iterator[None]:
    """Within the block, this process can't write a larger file; the current one if it is 0."""
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def started(
    settings: Settings,
    quiet: ManualClock,
    *,
    images: KeptImages | None = None,
    max_bytes: int = MAX_WAITING_BYTES,
    retry_wait_s: float = 0.01,
    clock: Callable[[], float] = time.time,
    burst: bool = False,
) -> Pipeline:
    """A running pipeline with an archive. `quiet` is the archive's clock, `clock` that of the jobs."""
    root = settings.archive_path
    assert root is not None
    parts = kit.pipeline_components(settings, ToneEngine())
    archive = Archive(
        root,
        Writer(root, max_bytes=settings.archive_max_bytes, retry_wait_s=retry_wait_s),
        Selection(settings.archive_share, frozenset(settings.archive_outcome_names)),
        Backlog(images or KeptImages(connect(settings.redis_url)), max_bytes=max_bytes, monotonic=quiet),
        metrics=parts.metrics,
        monotonic=quiet,
    )
    run = kit.pipeline(settings, replace(parts, archive=archive), burst=burst, clock=clock)
    run.start()
    return run


def writer_of(root: Path, *, worker: int = 0) -> int:
    """The process that writes this archive for this worker; for the current process if `worker` is 0."""
    found = {pid: command_line(pid) for pid in children_of(worker or os.getpid())}
    (pid,) = [pid for pid, command in found.items() if "writer_program" in command and f" {root} " in command]
    return pid


def sort(run: Pipeline, settings: Settings, client: redis.Redis, *images: bytes) -> list[str]:
    """Submit these images and wait until they are sorted; their job ids."""
    before = len(kit.stream(client))
    job_ids = kit.submit(settings, *map(frame, images))
    kit.wait_until(lambda: len(kit.stream(client)) == before + len(job_ids), "the line goes on")
    return job_ids


def images_on(client: redis.Redis) -> dict[str, int]:
    """The images on the server, and for how many seconds."""
    return {key.decode(): client.ttl(key) for key in client.keys("sortline:*image:*")}


def troubles(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the archive has logged, except its first message, which says that it starts."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "sortline.archive" and not record.getMessage().startswith("archiving ")
    ]
