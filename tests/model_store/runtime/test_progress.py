"""Steps are drawn on any terminal."""

from __future__ import annotations

import re

import pytest

from tests.kit import ASCII_LOCALE, drawn_on_terminal

_STEPS = """
from model_store.runtime.progress import show_progress
with show_progress() as steps, steps.step("Reading the images", total=2) as on_progress:
    steps.print_line("one line")
    on_progress(2)
"""

_REPORT = """
from model_store.runtime.progress import show_progress
with show_progress() as steps:
    for title in ("Reading the images", "Looking for duplicates"):
        with steps.step(title):
            pass
    for number in range(5):
        steps.console.print(f"class {number}")
    with steps.step("Opening the backbone"):
        pass
"""


@pytest.mark.parametrize(
    ("locale", "is_ascii"), [(ASCII_LOCALE, True), ({"PYTHONIOENCODING": "ascii"}, True), ({"PYTHONUTF8": "1"}, False)]
)
def test_a_terminal_without_unicode_gets_ascii(locale: dict[str, str], is_ascii: bool) -> None:
    drawn = drawn_on_terminal(_STEPS, environment=locale)
    assert b"one line\r\n" in drawn and b"Reading the images" in drawn and b"2/2" in drawn
    assert drawn.isascii() is is_ascii
    assert b"\\u" not in drawn


def screen(drawn: bytes) -> list[str]:
    """The lines of a terminal after this output, which moves the cursor up and erases lines."""
    lines, row = [""], 0
    for move, count, erase, text in re.findall(
        r"(\x1b\[(\d+)A|\n)|(\x1b\[2K)|\x1b\[[\d;?]*[a-zA-Z]|\r|([^\x1b\r\n]+)", drawn.decode()
    ):
        if move:
            row = max(0, row - int(count)) if count else row + 1
            lines += [""] * (row + 1 - len(lines))
        elif erase:
            lines[row] = ""
        else:
            lines[row] += text
    return lines


def test_what_is_printed_above_the_steps_is_not_erased_when_they_are_drawn_again() -> None:
    drawn = drawn_on_terminal(_REPORT, environment={"PYTHONUTF8": "1"})
    assert [line for line in screen(drawn) if line.startswith("class")] == [f"class {number}" for number in range(5)]
