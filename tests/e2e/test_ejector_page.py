"""The program of docs/ejector.md, started as a reader of that page starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from tests.kit import PATIENCE_S, PROJECT, wait_until
from tests.producer.kit import publish, sort_result

pytestmark = pytest.mark.e2e


@pytest.fixture
def program(tmp_path: Path) -> Path:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (PROJECT / "docs" / "ejector.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (source,) = blocks
    file = tmp_path / "ejector.py"
    file.write_text(source)
    return file


def publish_frame(client: redis.Redis, frame_id: int, *, captured_at: float) -> None:
    result = sort_result(f"job-{frame_id}", frame_id=frame_id).model_copy(update={"captured_at": captured_at})
    publish(client, result)


class Ejector:
    """The program as a process."""

    def __init__(self, program: Path, redis_url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, program, "line-1"],
            cwd=program.parent,
            env=os.environ | {"SORTLINE_REDIS_URL": redis_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> str:
        """Ask it to end. Returns what it printed to standard error."""
        self.process.send_signal(signal.SIGTERM)
        out, errors = self.process.communicate(timeout=PATIENCE_S)
        assert (self.process.returncode, out) == (0, "")
        return errors


def test_it_fires_or_lets_a_bottle_pass_and_continues_after_a_restart(
    program: Path, client: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    ejector = Ejector(program, redis_url)
    wait_until((tmp_path / "line-1.position").exists, "the reader has begun")
    wait_until(lambda: "line-1" in (tmp_path / "line-1.position").read_text(), "it knows where the stream ends")
    publish_frame(client, 1, captured_at=time.time() + 60)
    assert re.fullmatch(r"frame 1: fire reject in \d+ ms", ejector.line())
    publish_frame(client, 2, captured_at=time.time() - 60)
    assert ejector.line() == "frame 2: let it pass"
    assert ejector.end() == ""
    publish_frame(client, 3, captured_at=time.time() - 60)
    again = Ejector(program, redis_url)
    assert again.line() == "frame 3: let it pass"
    assert again.end() == ""
