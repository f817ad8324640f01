"""The programs of docs/ejector.md, started as a reader of that page starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from shared import keys
from shared.schemas import Timings
from tests.kit import PATIENCE_S, PROJECT, wait_until
from tests.producer.kit import publish, sort_result

pytestmark = pytest.mark.e2e


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the programs of the page."""
    page = (PROJECT / "docs" / "ejector.md").read_text()
    sources = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for name, source in zip(("ejector.py", "archive.py"), sources, strict=True):
        (tmp_path / name).write_text(source)
    return tmp_path


def publish_frame(client: redis.Redis, frame_id: int, *, captured_at: float) -> None:
    """A result that took 250 ms. The camera's clock is half an hour behind, which must not matter."""
    times = {"captured_at": captured_at - 1800, "finished_at": captured_at + 0.25, "timings_ms": Timings(total=250.0)}
    publish(client, sort_result(f"job-{frame_id}", frame_id=frame_id).model_copy(update=times))


class Program:
    """One of the programs as a process. What it prints goes to files, so that no wait for a line lasts for ever."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, errors: Path) -> None:
        self._process = process
        self._out = out
        self._errors = errors
        self._read = 0

    def line(self) -> str:
        """The next line that it prints."""
        wait_until(lambda: self._out.read_text().count("\n") > self._read, "it prints a line", log=self._errors)
        self._read += 1
        return self._out.read_text().splitlines()[self._read - 1]

    def end(self) -> tuple[list[str], str]:
        """Ask it to end. Returns the lines that it has printed since, and what it printed to standard error."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE_S) == 0, self._errors.read_text()
        return self._out.read_text().splitlines()[self._read :], self._errors.read_text()


@contextmanager
def running(program: Path, redis_url: str, *arguments: str) -> Iterator[Program]:
    """The program, following `line-1`; killed at the end of the block if it still runs."""
    out, errors = (program.with_name("-".join([program.stem, *arguments, what])) for what in ("out", "errors"))
    with out.open("wb") as out_file, errors.open("wb") as errors_file:
        process = subprocess.Popen(
            [sys.executable, program, "line-1", *arguments],
            cwd=program.parent,
            env=os.environ | {"SORTLINE_REDIS_URL": redis_url},
            stdout=out_file,
            stderr=errors_file,
        )
    try:
        yield Program(process, out, errors)
    finally:
        process.kill()
        process.wait()


def test_it_fires_or_lets_a_bottle_pass_and_continues_after_a_restart(
    programs: Path, client: redis.Redis, redis_url: str
) -> None:
    position_file = programs / "line-1.position"
    with running(programs / "ejector.py", redis_url) as ejector:
        wait_until(position_file.exists, "the reader has begun")
        wait_until(lambda: "line-1" in position_file.read_text(), "it knows where the stream ends")
        publish_frame(client, 1, captured_at=time.time() + 60)
        assert re.fullmatch(r"frame 1: to lane reject in \d+ ms", ejector.line())
        publish_frame(client, 2, captured_at=time.time() - 60)
        assert ejector.line() == "frame 2: let it pass"
        assert ejector.end() == ([], "")
    publish_frame(client, 3, captured_at=time.time() - 60)
    with running(programs / "ejector.py", redis_url) as again:
        assert again.line() == "frame 3: let it pass"
        assert again.end() == ([], "")


def test_two_programs_of_a_group_share_the_results(programs: Path, client: redis.Redis, redis_url: str) -> None:
    stream, archive = keys.results("line-1"), programs / "archive.py"
    with running(archive, redis_url, "first") as first:
        wait_until(lambda: client.exists(stream), "the first program makes the group")
        with running(archive, redis_url, "second") as second:
            wait_until(lambda: len(client.xinfo_consumers(stream, "archive")) == 2, "both read")
            for frame_id in range(9):
                publish_frame(client, frame_id, captured_at=time.time())
            wait_until(lambda: client.xinfo_groups(stream)[0]["entries-read"] == 9, "all results are read")
            wait_until(lambda: client.xpending(stream, "archive")["pending"] == 0, "all results are acknowledged")
            ended = [program.end() for program in (first, second)]
    shown = [json.loads(line) for lines, _ in ended for line in lines]
    assert sorted(result["frame_id"] for result in shown) == list(range(9))
    assert [errors for _, errors in ended] == [
        "sortline:results:line-1, group archive: this group is new. It begins with new results: older ones are not "
        "read.\n",
        "",
    ]
