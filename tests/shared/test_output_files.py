"""The check finds outputs that can't be written, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import BadSetting
from shared.output_files import check_output_file, check_output_folder


def test_a_file_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    there, new = tmp_path / "there.csv", tmp_path / "new.csv"
    there.write_text("kept")
    for path in (there, new):
        check_output_file(path, flag="--out")
    assert there.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


@pytest.mark.parametrize(
    ("name", "reason"), [("no/such/folder.csv", "No such file"), ("file/x.csv", "Not a directory"), (".", "Is a dir")]
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadSetting, match=rf"--out .* can't be written: {reason}"):
        check_output_file(tmp_path / name, flag="--out")


def test_a_folder_is_made_and_tried(tmp_path: Path) -> None:
    check_output_folder(tmp_path / "a" / "b", flag="--out")
    assert not any((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/1")):  # nobody can write to the last
        with pytest.raises(BadSetting, match=r"--cache-dir .* can't be written"):
            check_output_folder(path, flag="--cache-dir")
