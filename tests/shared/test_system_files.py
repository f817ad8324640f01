"""Names that systems put among people's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.system_files import LeftOut, describe_left_out, is_left_out, left_out_part

HIDDEN = "hidden (a name that begins with a dot)"


@pytest.mark.parametrize("name", ["@eaDir", "@EADIR", "$RECYCLE.BIN", "__MACOSX", "Thumbs.db", "._a.jpg", ".git"])
def test_names_of_systems_are_left_out(name: str) -> None:
    assert is_left_out(name)
    assert left_out_part(f"good/{name}/a.jpg") == name


@pytest.mark.parametrize("name", ["eaDir", "recycle", "thumbs.jpg", "a.b", "no cap"])
def test_other_names_are_not(name: str) -> None:
    assert not is_left_out(name)
    assert left_out_part(f"good/{name}/a.jpg") is None


def test_what_was_left_out_is_told_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left_out = LeftOut()
    left_out.tell(tmp_path)
    assert capsys.readouterr().err == ""
    for name in ("@eaDir", ".a", "@eaDir", ".b"):
        left_out.add(name)
    left_out.tell(tmp_path)
    assert left_out.counts() == {"@eaDir": 2, HIDDEN: 2}
    told = f"hidden files, and those of the system, left out: @eaDir 2, {HIDDEN} 2"
    assert capsys.readouterr().err == f"{tmp_path}: {told}\n"


def test_of_very_many_kinds_some_are_named() -> None:
    told = describe_left_out({f"kind {number:02}": 1_000 for number in range(12)})
    assert told.endswith("kind 08 1,000, kind 09 1,000 and 2 other kinds")
