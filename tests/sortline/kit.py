"""What tests of the command line share."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kit import PROJECT

# The beginning of a log line that no program of ours writes.
FORGED = "2026-01-01T00:00:00Z ERROR   sortline.worker: forged"


def environment(*, home: Path, redis_url: str, store: Path) -> dict[str, str]:
    """All environment variables of a command that uses the checked-in model `tiny` on a server."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PROJECT),
        "HOME": str(home),
        "SORTLINE_REDIS_URL": redis_url,
        "SORTLINE_MODEL_STORE": str(store),
        "SORTLINE_MODEL": "tiny",
        "SORTLINE_ENGINE": "litert",
    }


def assert_harmless(output: bytes) -> None:
    """Every byte is of a printable character or ends a line, and no line is a forged one."""
    text = output.decode()
    wrong = {character for character in text if not (character.isprintable() or character == "\n")}
    assert not wrong, text
    assert not any(line.startswith(FORGED) for line in text.splitlines()), text
