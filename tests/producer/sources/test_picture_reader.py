"""Reading one version of a file: whole, as it is, too old, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.sources.capture_time import CaptureTimes
from producer.sources.file_version import FileVersion, SentFile
from producer.sources.picture_reader import PictureReader, digest_of
from tests.producer.sources.kit import PICTURES, write


def reader(folder: Path, *, max_image_bytes: int = 10_000, max_age_s: float | None = None) -> PictureReader:
    return PictureReader(
        folder, max_image_bytes=max_image_bytes, capture_times=CaptureTimes(), max_age_s=max_age_s, salt=b"salt "
    )


def file(path: Path) -> SentFile:
    return SentFile(path.name, FileVersion.of(path.stat(), trust_inode=True))


def test_a_whole_picture_is_read_with_its_time_and_key(folder: Path) -> None:
    path = write(folder / "a.jpg", age_s=60)
    frame = reader(folder).read(file(path), as_it_is=False)
    assert frame is not None
    assert (frame.frame_id, frame.data) == ("a.jpg", PICTURES[0])
    assert frame.captured_at == pytest.approx(path.stat().st_mtime, abs=0.001)
    assert frame.picture_key is not None
    assert frame.picture_key.startswith(b"salt ")


def test_half_a_picture_is_read_only_as_it_is(folder: Path) -> None:
    path = write(folder / "a.jpg", PICTURES[0][:100])
    assert reader(folder).read(file(path), as_it_is=False) is None
    frame = reader(folder).read(file(path), as_it_is=True)
    assert frame is not None
    assert frame.data == PICTURES[0][:100]


def test_a_file_that_has_changed_is_not_read(folder: Path) -> None:
    seen = file(write(folder / "a.jpg"))
    write(folder / "a.jpg", PICTURES[1])
    assert reader(folder).read(seen, as_it_is=True) is None


def test_what_is_too_old_is_not_opened(folder: Path) -> None:
    seen = file(write(folder / "a.jpg", age_s=60))
    (folder / "a.jpg").unlink()
    frame = reader(folder, max_age_s=50.0).read(seen, as_it_is=False)
    assert frame is not None
    assert frame.too_old
    with pytest.raises(FileNotFoundError):
        reader(folder, max_age_s=70.0).read(seen, as_it_is=False)


def test_the_digest_is_that_of_the_bytes_that_are_read(folder: Path) -> None:
    write(folder / "a.jpg")
    assert reader(folder).digest("a.jpg") == digest_of(PICTURES[0])
    assert reader(folder, max_image_bytes=99).digest("a.jpg") == digest_of(PICTURES[0][:100])
    assert reader(folder).digest("b.jpg") is None


def test_a_name_is_printable_and_fits_a_job(folder: Path) -> None:
    assert reader(folder).unreadable(file(write(folder / "a\nb.jpg")), OSError(5, "I/O")).frame_id == r"a\nb.jpg"
    long = "/".join(["x" * 100] * 3) + "/a.jpg"
    frame = reader(folder).unreadable(SentFile(long, file(write(folder / "a.jpg")).version), OSError(5, "I/O"))
    assert frame.frame_id == "…" + long[-255:]
