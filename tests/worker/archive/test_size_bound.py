"""The size bound of an archive: the oldest images go first, and several workers share one bound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker import kit
from tests.worker.archive.kit import archived, disk_bytes, result_json
from worker.archive import size_bound
from worker.archive.folder import ArchiveFolder

IMAGE_BYTES = 7000
ENTRY_BYTES = 3 * 4096  # two blocks of the image, one of its result
DAY_S = 86_400.0
# Times of images on four days, ascending.
TIMES = [DAY_S * (20_000 + number // 10) + number % 10 for number in range(40)]


def write(archive: ArchiveFolder, numbers: range) -> None:
    for number in numbers:
        line = f"l{number % 2}"
        archive.write(bytes(IMAGE_BYTES), result_json(f"j{number}", finished_at=TIMES[number], line=line))


def open_folder(root: Path, *, max_bytes: int = 20 * ENTRY_BYTES, host: str = "h") -> ArchiveFolder:
    archive = ArchiveFolder(root, max_bytes=max_bytes, host=host)
    archive.prepare()
    return archive


def test_the_oldest_images_go_and_the_bound_holds(tmp_path: Path) -> None:
    archive = open_folder(tmp_path)
    for number in range(40):
        write(archive, range(number, number + 1))
        assert disk_bytes(tmp_path) <= 20 * ENTRY_BYTES
    kept = list(archived(tmp_path))
    assert kept == [f"j{number}" for number in range(40 - len(kept), 40)]
    assert 17 <= len(kept) <= 18, "pruning starts at 90 % of the bound and goes down to 85 %"
    assert {path.name for path in tmp_path.iterdir()} == {".incoming", "2024-10-06", "2024-10-07"}


def test_a_worker_that_starts_counts_the_files_that_are_there(tmp_path: Path) -> None:
    write(open_folder(tmp_path, max_bytes=10**9), range(39))
    write(open_folder(tmp_path), range(39, 40))
    assert list(archived(tmp_path)) == [f"j{number}" for number in range(23, 40)]


def test_leftovers_of_killed_workers_count(tmp_path: Path) -> None:
    archive = open_folder(tmp_path)
    (tmp_path / ".incoming" / "left").write_bytes(bytes(10 * ENTRY_BYTES))
    write(archive, range(40))
    assert disk_bytes(tmp_path) <= 10 * ENTRY_BYTES


def test_pruning_lists_a_few_images_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_bound, "_ROUND_FILES", 3)
    write(open_folder(tmp_path, max_bytes=10**9), range(39))
    write(open_folder(tmp_path), range(39, 40))
    assert list(archived(tmp_path)) == [f"j{number}" for number in range(23, 40)]


def test_an_image_that_is_larger_than_the_archive_removes_no_other(tmp_path: Path) -> None:
    archive = open_folder(tmp_path)
    write(archive, range(5))
    with pytest.raises(OSError, match="too large"):
        archive.write(bytes(20 * ENTRY_BYTES), result_json("large"))
    assert len(archived(tmp_path)) == 5


def test_images_that_another_worker_removes_meanwhile_count_as_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers that prune at once stop at the same image.

    Otherwise each would remove as many images as the bound asks for, and both together twice as many.
    """
    write(open_folder(tmp_path, max_bytes=10**9), range(39))
    one, other = open_folder(tmp_path), open_folder(tmp_path, host="other")
    remove, removed = size_bound.remove, []

    def remove_after_the_other(file: size_bound.ArchivedFile) -> None:
        if not removed:
            removed.append(file)
            other.write(bytes(IMAGE_BYTES), result_json("of-the-other", finished_at=TIMES[39]))
        remove(file)

    monkeypatch.setattr(size_bound, "remove", remove_after_the_other)
    write(one, range(39, 40))
    assert list(archived(tmp_path)) == [*(f"j{number}" for number in range(23, 40)), "of-the-other"]


@pytest.mark.slow
def test_several_workers_share_one_bound(tmp_path: Path) -> None:
    """Each counts the others' images too, and none removes an image for which there is room."""
    workers, images, entries = 3, 60, 80
    program = [sys.executable, "-m", "tests.worker.archive.filler", str(tmp_path), str(entries * ENTRY_BYTES)]
    running = [
        subprocess.Popen([*program, f"h{number}", str(images)], stdout=subprocess.PIPE, text=True)
        for number in range(workers)
    ]
    outputs = [process.communicate(timeout=kit.PATIENCE_S)[0] for process in running]
    assert [process.returncode for process in running] == [0] * workers
    most_bytes = max(int(line) for output in outputs for line in output.split())
    assert size_bound.PRUNE_DOWN_TO * entries <= most_bytes / ENTRY_BYTES <= entries
    kept = archived(tmp_path)
    assert size_bound.PRUNE_DOWN_TO * entries - 1 <= len(kept) <= entries
    for number in range(workers):
        of_one = [int(job_id.partition("-")[2]) for job_id in kept if job_id.startswith(f"h{number}-")]
        assert of_one == list(range(images - len(of_one), images)), "each worker's newest images are kept"
