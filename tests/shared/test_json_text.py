"""JSON that every reader takes and every terminal can show."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shared.cli import print_json, print_json_line
from shared.json_text import as_json

HOSTILE = "\x1b]0;owned\x07\r\n\x9b2J\x7f\u2028\u202e"


@pytest.mark.parametrize("form", [{}, {"indent": 2}, {"compact": True}, {"ascii_only": True}])
def test_control_characters_are_escaped_and_come_back(form: dict[str, Any]) -> None:
    value = {HOSTILE: [HOSTILE, {"label": "grün 🍾"}], "n": 1.5}
    text = as_json(value, **form)
    assert json.loads(text) == value
    assert all(character.isprintable() or character == "\n" for character in text)
    assert text.count("\n") == (0 if "indent" not in form else 8)


def test_json_has_no_lone_surrogates(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"file": os.fsdecode(b'"caf\xe9".jpg'), "label": "grün 🍾", "other": "\ud800"}
    for write in (print_json, print_json_line):
        write(value)
        expected = {"file": r'"caf\xe9".jpg', "label": "grün 🍾", "other": r"\ud800"}
        assert json.loads(capsys.readouterr().out.encode()) == expected


def test_numbers_that_json_lacks_are_null() -> None:
    value = {"a": float("nan"), "b": [float("inf"), (float("-inf"), 2.5)], "path": Path("p")}
    assert as_json(value) == '{"a": null, "b": [null, [null, 2.5]], "path": "p"}'
