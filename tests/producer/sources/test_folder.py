"""The folder source: each picture once in each version, in order, and never one that is still being written."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from producer.sources import folder as folder_module
from producer.sources import picture_reader
from producer.sources.base import folder_of
from producer.sources.disposal import Disposal
from producer.sources.journal import SentJournal
from shared.errors import BadSetting
from tests.producer.sources.kit import PICTURES, MakeSource, ShareSource, names, take, take_new, write


def test_existing_files_come_in_name_order_each_once(folder: Path, make_source: MakeSource) -> None:
    for number, name in enumerate(("b.jpg", "c.png", "a.JPG")):
        write(folder / name, PICTURES[number], age_s=9)
    source = make_source()
    frames = take(source, 3)
    assert [(frame.frame_id, frame.name, frame.data) for frame in frames] == [
        ("a.JPG", "a.JPG", PICTURES[2]),
        ("b.jpg", "b.jpg", PICTURES[0]),
        ("c.png", "c.png", PICTURES[1]),
    ]
    assert take_new(source, folder) == []


def test_no_more_than_asked_for_at_once(folder: Path, make_source: MakeSource) -> None:
    for number in range(5):
        write(folder / f"{number}.jpg", age_s=9)
    source = make_source()
    assert names(source.take(2, 0.0)) == ["0.jpg", "1.jpg"]
    assert names(source.take(10, 0.0)) == ["2.jpg", "3.jpg", "4.jpg"]


def test_side_files_and_unfinished_ones_are_passed_over(
    folder: Path, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    side_files = (".a.jpg", "a.jpg.part", "a.tmp", "a.jpg~", "a.JPG.CRDOWNLOAD", "a.xml", "a.txt", "Thumbs.db")
    for name in (*side_files, "desktop.ini", "a.jpg.md5", "a.jpg.lock", "a.jpg.uploading"):
        write(folder / name)
    source = make_source()
    assert take_new(source, folder) == []
    for name in side_files:
        write(folder / f"new-{name}" if name[0] != "." else folder / ".new.jpg")
    assert take_new(source, folder) == []
    assert caplog.text == ""


def test_a_kind_of_file_that_is_no_side_file_is_named_once(
    folder: Path, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder / "a.0001")
    write(folder / "b.0001")
    write(folder / "README")
    source = make_source()
    assert source.take(1, 0.0) == []
    write(folder / "c.0001")
    assert take_new(source, folder) == []
    assert caplog.text.count("passed over") == 2
    assert "files *.0001, such as 'a.0001', are passed over: the name of a picture ends in .jpg" in caplog.text
    assert "files without a suffix, such as 'README'" in caplog.text


@pytest.mark.slow
def test_a_new_file_comes_when_its_writer_closes_it(folder: Path, make_source: MakeSource) -> None:
    source = make_source()
    with (folder / "new.jpg").open("wb") as file:
        file.write(PICTURES[0][:100])
        file.flush()
        assert source.take(10, 2.0) == []  # longer than a file needs to settle: its writer only pauses
        file.write(PICTURES[0][100:])
    assert [frame.data for frame in take(source, 1)] == [PICTURES[0]]
    assert take_new(source, folder) == []


def test_a_file_renamed_into_place_comes_at_once(folder: Path, tmp_path: Path, make_source: MakeSource) -> None:
    """The clock stands still, so neither a scan nor a wait for the file to settle can find it."""
    source = make_source(clock=lambda: 0.0)
    assert source.take(1, 0.0) == []
    write(folder / "inside.jpg")
    write(tmp_path / "outside.jpg").rename(folder / "outside.jpg")
    assert names(source.take(10, 0.0)) == ["inside.jpg", "outside.jpg"]


def test_a_file_that_is_renamed_away_does_not_delay_the_next(
    folder: Path, tmp_path: Path, make_source: MakeSource
) -> None:
    """Files are renamed away when they are moved after they were sent."""
    write(folder / "old.jpg", age_s=9)
    source = make_source(clock=lambda: 0.0)
    assert names(source.take(10, 0.0)) == ["old.jpg"]
    (folder / "old.jpg").rename(tmp_path / "done.jpg")
    write(folder / "new.jpg")
    assert names(source.take(10, 0.0)) == ["new.jpg"]


def test_a_rewritten_name_is_a_new_picture(folder: Path, make_source: MakeSource) -> None:
    """In place, by rename, and by rename with the same size and time."""
    source = make_source()
    latest = folder / "latest.jpg"
    for picture in PICTURES[:3]:
        latest.write_bytes(picture)
        assert [frame.data for frame in take(source, 1)] == [picture]
    write(latest, PICTURES[3])
    assert [frame.data for frame in take(source, 1)] == [PICTURES[3]]
    write(latest, PICTURES[4], modified_ns=latest.stat().st_mtime_ns)
    assert [frame.data for frame in take(source, 1)] == [PICTURES[4]]
    assert take_new(source, folder) == []


def test_a_rewritten_name_is_seen_on_a_share_too(folder: Path) -> None:
    source = ShareSource(folder)
    for picture in PICTURES[:3]:
        write(folder / "latest.jpg", picture)
        assert [frame.data for frame in source.take(10, 5.0)] == [picture]
        assert source.take(10, 5.0) == []


@pytest.mark.parametrize("accepted", [False, True])
def test_a_file_that_gets_the_time_of_its_original_back_is_no_new_picture(
    folder: Path, tmp_path: Path, make_source: MakeSource, accepted: bool
) -> None:
    """`scp -p`, FTP's MFMT and others set it once the file is closed, and maybe read. The file is still moved."""
    now = 0.0
    source = make_source(clock=lambda: now, disposal=Disposal(folder, move_to=tmp_path / "done"))
    assert source.take(1, 0.0) == []
    path = write(folder / "a.jpg")
    frames = source.take(1, 0.0)
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    if accepted:
        source.accepted(frames)
    now += 1000.0
    assert source.take(1, 0.0) == []
    assert (tmp_path / "done" / "a.jpg").exists() is accepted


def test_a_file_with_a_later_time_is_a_new_picture(folder: Path) -> None:
    path = write(folder / "a.jpg")
    source = ShareSource(folder)
    assert len(source.take(10, 5.0)) == 1
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert len(source.take(10, 5.0)) == 1


def test_on_a_share_that_changes_inode_numbers_nothing_is_sent_twice(folder: Path) -> None:
    write(folder / "a.jpg")
    source = ShareSource(folder)
    assert len(source.take(10, 5.0)) == 1
    write(folder / "a.jpg", modified_ns=(folder / "a.jpg").stat().st_mtime_ns)
    assert source.take(10, 5.0) == []


def test_pictures_that_were_overwritten_or_removed_before_they_were_read_are_counted(
    folder: Path, make_source: MakeSource
) -> None:
    source = make_source()
    assert source.take(1, 0.0) == []
    for picture in PICTURES[:3]:
        write(folder / "latest.jpg", picture)
    write(folder / "gone.jpg")
    (folder / "gone.jpg").unlink()
    write(folder / "renamed.jpg").rename(folder / "z.jpg")
    assert [frame.data for frame in take(source, 2)] == [PICTURES[2], PICTURES[0]]
    assert source.count_missed(100) == 3
    assert source.count_missed(0) == 0


def test_a_picture_that_is_removed_just_before_it_is_read_is_missed(
    folder: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is renamed at that moment is not missed: it comes under its new name."""
    share, source = ShareSource(folder), make_source()
    write(folder / "removed.jpg")
    write(folder / "renamed.jpg")

    def goes(path: Path, **_: object) -> None:
        if path.exists() and path.name == "removed.jpg":
            path.unlink()
        elif path.exists():
            path.rename(folder / "z.jpg")

    with monkeypatch.context() as going:
        going.setattr(folder_module, "version_of", goes)
        assert source.take(2, 0.0) == []
    assert [frame.data for frame in take(source, 1)] == [PICTURES[0]]
    assert source.count_missed(0) == 1
    write(folder / "removed.jpg")
    assert len(take(source, 1)) == 1
    (folder / "removed.jpg").unlink()
    assert source.take(1, 0.0) == []
    assert source.count_missed(0) == 0
    write(folder / "a.jpg")
    with monkeypatch.context() as going:
        going.setattr(picture_reader, "open_regular", lambda path: path.unlink() or (folder / "nothing").stat())
        assert share.take(2, 5.0) == []
    assert share.count_missed(0) == 2


def test_a_file_that_is_closed_and_continued_comes_whole(folder: Path, make_source: MakeSource) -> None:
    source = make_source()
    (folder / "a.jpg").write_bytes(PICTURES[0][:100])
    assert source.take(10, 0.2) == []
    with (folder / "a.jpg").open("ab") as file:
        file.write(PICTURES[0][100:])
    assert [frame.data for frame in take(source, 1)] == [PICTURES[0]]
    assert take_new(source, folder) == []


def test_a_file_that_is_allocated_before_it_is_filled_comes_whole(folder: Path, make_source: MakeSource) -> None:
    source = make_source()
    (folder / "a.jpg").write_bytes(bytes(len(PICTURES[0])))
    assert source.take(10, 0.2) == []
    with (folder / "a.jpg").open("r+b") as file:
        file.write(PICTURES[0])
    assert [frame.data for frame in take(source, 1)] == [PICTURES[0]]
    assert take_new(source, folder) == []


@pytest.mark.slow
def test_what_stays_broken_is_handed_out_and_looked_at_again_when_it_changes(
    folder: Path, make_source: MakeSource
) -> None:
    source = make_source()
    (folder / "a.jpg").write_bytes(b"no picture")
    assert [frame.data for frame in take(source, 1)] == [b"no picture"]
    assert take_new(source, folder) == []
    (folder / "a.jpg").write_bytes(PICTURES[0])
    assert [frame.data for frame in take(source, 1)] == [PICTURES[0]]


def test_on_a_share_a_file_comes_when_it_has_stopped_growing(folder: Path) -> None:
    source = ShareSource(folder)
    path = folder / "slow.jpg"
    for part in range(0, 400, 100):
        with path.open("ab") as file:
            file.write(PICTURES[0][part : part + 100])
        assert source.take(10, 0.7) == []
    with path.open("ab") as file:
        file.write(PICTURES[0][400:])
    (frame,) = source.take(10, 5.0)
    assert frame.data == PICTURES[0]


def test_on_a_share_a_file_that_ends_early_is_given_more_time(folder: Path) -> None:
    source = ShareSource(folder)
    write(folder / "a.jpg", PICTURES[0][:100], age_s=3600)  # the share's clock may differ from ours
    assert source.take(10, 1.9) == []
    write(folder / "a.jpg")
    assert [frame.data for frame in source.take(10, 5.0)] == [PICTURES[0]]


def test_an_empty_file_is_given_time_and_then_handed_out(folder: Path) -> None:
    source = ShareSource(folder)
    (folder / "empty.jpg").touch()
    assert source.take(10, 9.0) == []
    assert [frame.data for frame in source.take(10, 3.0)] == [b""]


@pytest.mark.parametrize("accepted", [False, True])
def test_a_name_that_was_removed_and_comes_back_is_a_new_file(
    folder: Path, make_source: MakeSource, accepted: bool
) -> None:
    """Also with the same time, size and inode, as a copy may have."""
    source = make_source()
    first = write(folder / "a.jpg", age_s=60)
    modified_ns = first.stat().st_mtime_ns
    frames = take(source, 1)
    if accepted:
        source.accepted(frames)
    first.unlink()
    write(folder / "a.jpg", modified_ns=modified_ns)
    assert len(take(source, 1)) == 1


def test_of_a_large_file_only_enough_to_refuse_it_is_read(folder: Path, make_source: MakeSource) -> None:
    write(folder / "large.jpg", b"x" * 5000, age_s=9)
    (frame,) = take(make_source(max_image_bytes=1000), 1)
    assert len(frame.data) == 1001


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9.jpg", r"caf\xe9.jpg"),
        (b"a b\n\x1b[31m.jpg", r"a b\n\x1b[31m.jpg"),
        ("Flasche grün.jpg".encode(), "Flasche grün.jpg"),
        (b"\xe9" * 250 + b".jpg", "…" + (r"\xe9" * 250 + ".jpg")[-255:]),
    ],
)
def test_a_name_in_any_bytes_becomes_printable(folder: Path, make_source: MakeSource, name: bytes, shown: str) -> None:
    source = make_source()
    try:
        (folder / os.fsdecode(name)).write_bytes(PICTURES[0])
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (frame,) = take(source, 1)
    assert (frame.frame_id, frame.name) == (shown, shown)
    source.accepted([frame])
    assert take_new(source, folder) == []


def test_a_description_says_what_is_read_and_where_its_times_come_from(
    folder: Path, tmp_path: Path, make_source: MakeSource
) -> None:
    source = make_source(journal=SentJournal(tmp_path / "journal"))
    assert source.describe() == (
        f"pictures in {folder}, reported by the kernel; time of capture: when the file was last modified; sent "
        f"files are recorded in {tmp_path / 'journal'}"
    )
    assert "found by a scan every 0.5 s" in ShareSource(folder).describe()
    for move_to, then in ((None, "deleted"), (tmp_path / "done", f"moved to {tmp_path / 'done'}")):
        source = make_source(disposal=Disposal(folder, move_to=move_to))
        assert source.describe().endswith(f"sent files are forgotten when the camera ends, and then {then}")


def test_names_of_pictures_that_are_not_files_are_passed_over(folder: Path, make_source: MakeSource) -> None:
    source = make_source()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "link.jpg").symlink_to("nothing")
    (folder / "folder.jpg").mkdir()
    assert take_new(source, folder) == []


def test_the_time_between_closing_and_taking_is_short(folder: Path, make_source: MakeSource) -> None:
    """The clock stands still: the kernel's report alone is enough, and no check or scan of the files is due."""
    now = time.monotonic()
    source = make_source(clock=lambda: now)
    assert source.take(1, 0.0) == []
    (folder / "a.jpg").write_bytes(PICTURES[0])
    assert names(source.take(1, 0.0)) == ["a.jpg"]


@pytest.mark.parametrize("source", ["rtsp://10.0.0.1/stream", "http://camera/mjpeg"])
def test_streams_are_refused_by_name_for_now(source: str) -> None:
    with pytest.raises(BadSetting, match="can't be read yet"):
        folder_of(source)


def test_only_folders_are_taken(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"x")
    with pytest.raises(BadSetting, match=r"is a file, not a folder: .* Video files can't be read yet"):
        folder_of(str(folder / "a.mp4"))
    with pytest.raises(BadSetting, match="neither 'simulated' nor a folder"):
        folder_of(str(folder / "nothing"))
    with pytest.raises(BadSetting, match="neither 'simulated' nor a folder"):
        folder_of("")  # not the current folder
    with pytest.raises(BadSetting, match="can't be read: File name too long"):
        folder_of("a" * 5000)
    assert folder_of(str(folder)) == folder
