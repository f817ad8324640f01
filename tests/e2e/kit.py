"""Real processes of the command line, as a user starts them, for whole stories."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from shared.settings import Settings
from shared.settings import environment as settings_environment
from tests.kit import PATIENCE_S, PROJECT, children_of, wait_until


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """The environment of a user whose settings these are."""
    return {**os.environ, **settings_environment(settings), **more}


def sortline(
    *arguments: str, settings: Settings, patience_s: float = PATIENCE_S * 4, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sortline", *arguments],
        env=environment(settings, **more),
        capture_output=True,
        text=True,
        timeout=patience_s,
        check=False,
    )


def worker(settings: Settings, *arguments: str, log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A worker process; killed at the end of the block if it still runs."""
    return running("sortline", "worker", *arguments, settings=settings, log=log)


@contextmanager
def running(module: str, *arguments: str, settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Like `worker`, for a module of the project or of these tests."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment(settings, PYTHONPATH=str(PROJECT)),
            stdout=file,
            stderr=file,
            process_group=0,  # so that a test can signal all of it, as a terminal does
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def child_of(process: subprocess.Popen[bytes]) -> int:
    """The one process that it has started. For `sortline worker` this is the worker proper."""
    wait_until(lambda: len(children_of(process.pid)) == 1, "it has one child")
    return children_of(process.pid)[0]


def ready(log: Path) -> bool:
    """Whether the worker that writes this log answers 200 on /readyz."""
    return answers(log, "/readyz") is not None


def answers(log: Path, path: str) -> str | None:
    """What the worker that writes this log answers on a path; None if it does not answer, or not with 200."""
    for line in log.read_text(errors="replace").splitlines():
        if "metrics on http://" in line:
            url = "http://" + line.partition("metrics on http://")[2].replace("/metrics", path)
            try:
                with urllib.request.urlopen(url, timeout=PATIENCE_S / 2) as response:
                    return str(response.read().decode())
            except (urllib.error.URLError, TimeoutError):
                return None
    return None


def metric(log: Path, sample: str) -> float:
    """The value of one sample, written as the worker shows it, e.g. `sortline_jobs_total{line="l1"}`; 0 if absent."""
    for line in (answers(log, "/metrics") or "").splitlines():
        name, _, value = line.rpartition(" ")
        if name == sample:
            return float(value)
    return 0.0


def stop(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM and wait for the end. Returns the exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE_S)
