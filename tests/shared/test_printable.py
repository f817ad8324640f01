"""Names of files that can't be printed as they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shared.cli import print_json, print_json_line
from shared.printable import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Flasche grün.jpg", "Flasche grün.jpg"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        ("Fl\udcc3\udcbcss 图.jpg", "Flüss 图.jpg"),  # UTF-8, as Python reads it in a locale without UTF-8
        ("a\n\x1b[31m\x9b\u2028.jpg", r"a\n\x1b[31m\x9b\u2028.jpg"),
        *((name, name) for name in ("1.00\u202fPM.png", "a\xa0b\xad.jpg", "👩\u200d🔧.jpg")),  # spaces and joiners stay
        (Path("p") / "a b.jpg", "p/a b.jpg"),
    ],
)
def test_a_name_in_any_bytes_becomes_printable(name: str | Path, shown: str) -> None:
    assert printable(name) == shown


def test_json_has_no_lone_surrogates(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"file": os.fsdecode(b'"caf\xe9".jpg'), "label": "grün 🍾"}
    for write in (print_json, print_json_line):
        write(value)
        assert json.loads(capsys.readouterr().out.encode()) == {"file": r'"caf\xe9".jpg', "label": "grün 🍾"}
