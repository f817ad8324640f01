"""What tests of the command line share."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kit import PROJECT


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
