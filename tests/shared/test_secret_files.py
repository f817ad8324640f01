"""Secrets are read from files that hold them alone; what is refused is named, and never quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import BadSetting
from shared.secret_files import MAX_SECRET_BYTES, read_secret
from tests.irregular_files import make_irregular_files


@pytest.mark.parametrize("content", ["open sesame ä", "open sesame ä\n", "open sesame ä\r\n\n", "\ufeffopen sesame ä"])
def test_the_ends_of_lines_are_no_part_of_it(content: str, tmp_path: Path) -> None:
    (tmp_path / "phrase").write_text(content, encoding="utf-8", newline="")
    assert read_secret(tmp_path / "phrase", where="phrase") == "open sesame ä"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\n", "the file is empty"),
        (b"\nhunter2\n", "one line of printable characters: the secret alone"),
        (b"hunter2\nhunter3\n", "one line of printable characters: the secret alone"),
        (b"hunter2\x1b", "one line of printable characters: the secret alone"),
        (b"hunter2\xff", "it is not UTF-8"),
        (b"hunter2" * MAX_SECRET_BYTES, "more than 4,096 bytes"),
    ],
)
def test_what_is_no_secret_is_refused_and_not_shown(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "phrase").write_bytes(content)
    with pytest.raises(BadSetting, match=rf"^--passphrase-file phrase: .*{reason}") as refused:
        read_secret(tmp_path / "phrase", where="--passphrase-file phrase")
    assert "hunter" not in str(refused.value) + repr(refused.value.__cause__)


@pytest.mark.timeout(60)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, reason in make_irregular_files(tmp_path).items():
        with pytest.raises(BadSetting, match=f"{name}: it can't be read: {reason}"):
            read_secret(tmp_path / name, where=name)
