"""Steps are drawn on any terminal."""

from __future__ import annotations

import pytest

from tests.kit import ASCII_LOCALE, drawn_on_terminal

_STEPS = """
from model_store.runtime.progress import show_progress
with show_progress() as steps, steps.step("Reading the images", total=2) as on_progress:
    steps.print_line("one line")
    on_progress(2)
"""


@pytest.mark.parametrize(
    ("locale", "is_ascii"), [(ASCII_LOCALE, True), ({"PYTHONIOENCODING": "ascii"}, True), ({"PYTHONUTF8": "1"}, False)]
)
def test_a_terminal_without_unicode_gets_ascii(locale: dict[str, str], is_ascii: bool) -> None:
    drawn = drawn_on_terminal(_STEPS, environment=locale)
    assert b"one line\r\n" in drawn and b"Reading the images" in drawn and b"2/2" in drawn
    assert drawn.isascii() is is_ascii
    assert b"\\u" not in drawn
