"""Lines for people: what they quote can't begin a line or control the terminal."""

from __future__ import annotations

import io
import os
import pty
import sys
from pathlib import Path

import pytest

from shared.messages import for_drawing, note, note_lines, open_messages, open_output, say
from shared.tables import plain_console, print_facts, print_table

HOSTILE = "a\x1b]0;owned\x07\r\n\x9b2J\u202e\udce9[red]b"
SHOWN = r"a\x1b]0;owned\x07\r\n\x9b2J\u202e\xe9[red]b"


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    note(HOSTILE)
    assert capsys.readouterr() == (f"{SHOWN}\n", f"{SHOWN}\n")
    say("x" * 5_000_000)
    assert len(capsys.readouterr().out) < 5_100


def test_only_the_first_line_of_an_error_begins_at_the_margin(capsys: pytest.CaptureFixture[str]) -> None:
    note_lines("sortline: no such file: a\nsortline: all is well\x1b[2J")
    assert capsys.readouterr().err == "sortline: no such file: a\n  sortline: all is well\\x1b[2J\n"


def test_tables_and_consoles_show_texts_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    console = plain_console()
    print_table(console, ("name", "n"), [(HOSTILE, "1")], title=HOSTILE)
    print_facts(console, [(HOSTILE, HOSTILE)], title=HOSTILE)
    console.print(f"first\n{HOSTILE}", soft_wrap=True)
    out = capsys.readouterr().out
    assert "owned\\x07\\r\\n\\x9b2J" in out
    assert out.count("[red]") == 6
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "first\na\\x1b" in out  # the caller's own lines stay apart


def test_what_is_not_printed_through_these_is_escaped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "PY_COLORS", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        out = open_output(file)
        print(HOSTILE, "a\tb\n\x1b[31mgrün", file=out)
        out.flush()
        for_drawing(out).write("\x1b[2K")  # a progress bar of our own
        out.flush()
    shown = (tmp_path / "out").read_bytes()
    assert shown == (SHOWN.replace(r"\n", "\n") + " a\tb\n\\x1b[31mgr\\xfcn\n\x1b[2K").encode()


def test_a_terminal_gets_colors_but_nothing_else() -> None:
    terminal, side = pty.openpty()
    with open_messages(side, encoding="utf-8") as messages:
        print("\x1b[1;31mred\x1b[0m\x1b[2J\x1b]0;owned\x07\x1b[31", file=messages)
    assert os.read(terminal, 4096) == b"\x1b[1;31mred\x1b[0m\\x1b[2J\\x1b]0;owned\\x07\\x1b[31\r\n"
    os.close(terminal)


def test_another_stream_is_drawn_on_as_it_is() -> None:
    stream = io.StringIO()
    assert for_drawing(stream) is stream
    assert for_drawing(sys.stderr) is sys.stderr
