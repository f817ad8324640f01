"""Steps are drawn on any terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.kit import ASCII_LOCALE

_STEPS = """
from model_store.runtime.progress import show_progress
with show_progress() as steps, steps.step("Reading the images", total=2) as on_progress:
    steps.print_line("one line")
    on_progress(2)
"""


def read_all(terminal: int) -> Iterator[bytes]:
    """What is written to the terminal, until its last writer has ended: then Linux raises EIO."""
    while True:
        try:
            yield os.read(terminal, 4096)
        except OSError:
            return


@pytest.mark.parametrize(
    ("locale", "is_ascii"), [(ASCII_LOCALE, True), ({"PYTHONIOENCODING": "ascii"}, True), ({"PYTHONUTF8": "1"}, False)]
)
def test_a_terminal_without_unicode_gets_ascii(locale: dict[str, str], is_ascii: bool) -> None:
    terminal, side = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", _STEPS], stderr=side, env=os.environ | {"TERM": "xterm"} | locale
    ) as run:
        os.close(side)
        drawn = b"".join(read_all(terminal))
    os.close(terminal)
    assert run.returncode == 0, drawn.decode()
    assert b"one line\r\n" in drawn and b"Reading the images" in drawn and b"2/2" in drawn
    assert drawn.isascii() is is_ascii
    assert b"\\u" not in drawn
