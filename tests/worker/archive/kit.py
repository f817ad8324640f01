"""Shared by the archive's tests: results to archive, the contents of an archive, and a limit on the sizes of files."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.schemas import Outcome, SortResult
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine
from worker.archive.archive import open_archive
from worker.archive.files import stem_of
from worker.models.routing import Serving
from worker.pipeline import PipelineComponents

BLOCK_BYTES = 4096


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
