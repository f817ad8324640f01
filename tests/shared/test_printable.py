"""Text from outside that can't be printed as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.printable import cut, one_line, printable, printable_lines


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Flasche grün.jpg", "Flasche grün.jpg"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        ("Fl\udcc3\udcbcss 图.jpg", "Flüss 图.jpg"),  # UTF-8, as Python reads it in a locale without UTF-8
        ("a\n\x1b[31m\x9b\u2028.jpg", r"a\n\x1b[31m\x9b\u2028.jpg"),
        ("a\udcc2\udc9b2J", r"a\x9b2J"),  # the bytes of U+009B, which begins a sequence like ESC and `[`
        ("\r\t\x07\x7f\x00", r"\r\t\x07\x7f\x00"),
        ("a\u202egpj.exe\u2066", r"a\u202egpj.exe\u2066"),  # shown without escaping, it ends in .jpg
        ("\ud800\udfff", r"\ud800\udfff"),  # no bytes of a name: from JSON of others
        *((name, name) for name in ("1.00\u202fPM.png", "a\xa0b\xad.jpg", "👩\u200d🔧.jpg")),  # spaces and joiners stay
        (Path("p") / "a b.jpg", "p/a b.jpg"),
    ],
)
def test_a_name_in_any_bytes_becomes_printable(name: str | Path, shown: str) -> None:
    assert printable(name) == shown
    shown.encode()


def test_every_text_can_be_encoded_and_is_one_line() -> None:
    text = "".join(map(chr, range(0x11_0000)))
    shown = printable(text)
    assert len(shown.splitlines()) == 1
    assert not any(code in shown for code in map(chr, (*range(32), *range(127, 160))))
    shown.encode()


def test_lines_of_a_text_can_stay_apart() -> None:
    assert printable_lines("a\r\nb\x1b\n") == "a\\r\nb\\x1b\n"


def test_a_long_text_is_cut_in_the_middle() -> None:
    assert cut("x" * 100, max_characters=100) == "x" * 100
    assert cut("a" * 75 + "b" * 900 + "c" * 25, max_characters=100) == (
        "a" * 75 + " [... cut: 1,000 characters in all ...] " + "c" * 25
    )


@pytest.mark.parametrize("text", ["\x1b" * 5_000_000, "x" * 5_000_000, "\udce9" * 11_000, "\x1b" * 4_999])
def test_a_line_is_bounded_after_it_was_escaped(text: str) -> None:
    shown = one_line(text)
    assert len(shown) < 5_100
    assert f"{len(text):,} characters in all" in shown
