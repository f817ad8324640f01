"""The folder source: each file once, in order, and never one that is still growing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from producer.sources.base import SourceFrame, folder_of
from producer.sources.folder import FolderSource
from shared.errors import BadSetting
from tests.kit import PATIENCE_S, wait_until

MakeSource = Callable[..., FolderSource]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def make_source(folder: Path) -> Iterator[MakeSource]:
    """A source of the folder that is closed at the end; by default listening to the kernel."""
    sources = []

    def make(**options: object) -> FolderSource:
        sources.append(FolderSource(folder, **{"max_image_bytes": 1000, **options}))  # type: ignore[arg-type]
        return sources[-1]

    yield make
    for source in sources:
        source.close()


class DeafSource(FolderSource):
    """A source on a share where the kernel reports nothing. Its time passes only while it waits."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        super().__init__(folder, max_image_bytes=1000, clock=lambda: self.now, watch=False)

    def _listen(self, timeout_s: float) -> None:
        self.now += timeout_s


def take_all(source: FolderSource, *, timeout_s: float = PATIENCE_S) -> list[SourceFrame]:
    """All frames until none comes for a moment. The first one may take up to `timeout_s`."""
    frames = source.take(1000, timeout_s)
    while more := source.take(1000, 0.3):
        frames += more
    return frames


def names(frames: list[SourceFrame]) -> list[str]:
    return [frame.name for frame in frames]


@pytest.mark.slow
def test_existing_files_come_in_name_order_each_once(folder: Path, make_source: MakeSource) -> None:
    for name in ("b.jpg", "c.png", "a.jpg"):
        (folder / name).write_bytes(name.encode())
    (folder / "subfolder").mkdir()
    source = make_source()
    frames = take_all(source)
    assert [(frame.frame_id, frame.name, frame.data) for frame in frames] == [
        (name, name, name.encode()) for name in ("a.jpg", "b.jpg", "c.png")
    ]
    assert take_all(source, timeout_s=1.5) == []


@pytest.mark.slow
def test_hidden_and_temporary_names_are_passed_over(folder: Path, make_source: MakeSource) -> None:
    for name in (".a.jpg", "a.jpg.part", "a.tmp", "a.jpg~", "a.JPG.CRDOWNLOAD", "kept.txt"):
        (folder / name).write_bytes(b"x")
    assert names(take_all(make_source())) == ["kept.txt"]


@pytest.mark.slow
def test_a_new_file_comes_when_its_writer_closes_it(folder: Path, make_source: MakeSource) -> None:
    source = make_source()
    with (folder / "new.jpg").open("wb") as file:
        file.write(b"one")
        file.flush()
        wait_until(lambda: not source._reports.empty(), "the kernel reports it")
        assert source.take(10, 2.0) == []  # longer than a file needs to settle: its writer only pauses
        file.write(b" two")
    assert [frame.data for frame in source.take(10, PATIENCE_S)] == [b"one two"]
    assert take_all(source, timeout_s=1.5) == []


def test_a_file_renamed_into_place_comes(folder: Path, tmp_path: Path, make_source: MakeSource) -> None:
    source = make_source()
    (folder / "inside.jpg.part").write_bytes(b"inside")
    (tmp_path / "outside.jpg").write_bytes(b"outside")
    (folder / "inside.jpg.part").rename(folder / "inside.jpg")
    (tmp_path / "outside.jpg").rename(folder / "outside.jpg")
    found: list[bytes] = []
    while len(found) < 2 and (frames := source.take(10, PATIENCE_S)):
        found += [frame.data for frame in frames]
    assert sorted(found) == [b"inside", b"outside"]


def test_without_reports_a_file_comes_when_it_has_stopped_growing(folder: Path) -> None:
    source = DeafSource(folder)
    path = folder / "slow.jpg"
    for part in range(4):
        with path.open("ab") as file:
            file.write(b"part")
        os.utime(path, ns=(part, part))
        assert source.take(10, 0.7) == []
    (frame,) = source.take(10, 5.0)
    assert frame.data == b"part" * 4


def test_an_empty_file_is_given_time_and_then_handed_out(folder: Path) -> None:
    source = DeafSource(folder)
    (folder / "empty.jpg").touch()
    assert source.take(10, 5.0) == []
    assert [frame.data for frame in source.take(10, 20.0)] == [b""]


def test_a_name_that_was_removed_and_comes_back_is_a_new_file(folder: Path, make_source: MakeSource) -> None:
    source = make_source()
    (folder / "a.jpg").write_bytes(b"first")
    assert [frame.data for frame in take_all(source)] == [b"first"]
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").write_bytes(b"second")
    assert [frame.data for frame in take_all(source)] == [b"second"]


@pytest.mark.slow
def test_of_a_large_file_only_enough_to_refuse_it_is_read(folder: Path, make_source: MakeSource) -> None:
    (folder / "large.jpg").write_bytes(b"x" * 5000)
    (frame,) = take_all(make_source())
    assert len(frame.data) == 1001


def test_a_file_that_can_not_be_read_is_reported(folder: Path, make_source: MakeSource) -> None:
    source = make_source(watch=False)
    (folder / "gone.jpg").write_bytes(b"x")
    source._offer("gone.jpg")
    (folder / "gone.jpg").unlink()
    (frame,) = source.take(1, 1.0)
    assert frame.problem == "can't be read: No such file or directory"


@pytest.mark.slow
def test_a_name_in_any_bytes_becomes_printable(folder: Path, make_source: MakeSource) -> None:
    try:
        (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (frame,) = take_all(make_source())
    assert frame.frame_id == "caf\N{REPLACEMENT CHARACTER}.jpg"


def test_no_more_than_asked_for_at_once(folder: Path, make_source: MakeSource) -> None:
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(b"x")
    source = make_source()
    assert names(source.take(2, PATIENCE_S)) == ["0.jpg", "1.jpg"]
    assert names(source.take(10, PATIENCE_S)) == ["2.jpg", "3.jpg", "4.jpg"]


def test_a_folder_that_is_away_for_a_while_is_waited_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = DeafSource(folder)
    folder.rename(folder.with_name("elsewhere"))
    assert source.take(10, 3.0) == []
    assert caplog.text.count("can't be read") == 1
    folder.with_name("elsewhere").rename(folder)
    (folder / "a.jpg").write_bytes(b"x")
    assert names(source.take(10, 5.0)) == ["a.jpg"]


def test_what_was_taken_does_not_come_again_after_the_folder_was_away(folder: Path) -> None:
    source = DeafSource(folder)
    (folder / "a.jpg").write_bytes(b"x")
    assert names(source.take(10, 5.0)) == ["a.jpg"]
    folder.rename(folder.with_name("elsewhere"))
    assert source.take(10, 3.0) == []
    folder.with_name("elsewhere").rename(folder)
    (folder / "b.jpg").write_bytes(b"x")
    assert names(source.take(10, 5.0)) == ["b.jpg"]
    assert source.take(10, 5.0) == []


def test_what_was_taken_does_not_come_again_after_the_share_failed_for_a_moment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DeafSource(folder)
    (folder / "a.jpg").write_bytes(b"x")
    assert names(source.take(10, 5.0)) == ["a.jpg"]
    stat = Path.stat

    def fails(path: Path, **options: bool) -> os.stat_result:
        if path.name == "a.jpg":
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, **options)

    with monkeypatch.context() as away:
        away.setattr(Path, "stat", fails)
        assert source.take(10, 2.0) == []
    assert source.take(10, 5.0) == []


def test_a_closed_source_leaves_no_thread(folder: Path, make_source: MakeSource) -> None:
    source = make_source()
    observer = source._observer
    assert observer is not None
    source.close()
    assert not observer.is_alive()


@pytest.mark.parametrize("source", ["rtsp://10.0.0.1/stream", "http://camera/mjpeg"])
def test_streams_are_refused_by_name_for_now(source: str) -> None:
    with pytest.raises(BadSetting, match="can't be read yet"):
        folder_of(source)


def test_only_folders_are_taken(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"x")
    with pytest.raises(BadSetting, match="can't be read yet"):
        folder_of(str(folder / "a.mp4"))
    with pytest.raises(BadSetting, match="neither 'simulated' nor a folder"):
        folder_of(str(folder / "nothing"))
    assert folder_of(str(folder)) == folder
