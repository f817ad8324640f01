"""Runs one demo from start to end: model, worker, cameras, live table, summary.

Worker and cameras are `sortline` commands in processes of their own, which end when this process ends. They are stopped
in this order: the cameras, so that no new images come; then the worker, which drains; then the server.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live

from producer.demo import live_table
from producer.demo.contact_sheet import chosen_cells, write_sheet
from producer.demo.statistics import ResultStatistics
from producer.sources.demo_dataset import BOTTLES
from producer.sources.simulator import SimulatedSource
from producer.streams.reader import ResultReader
from shared import keys
from shared.errors import SortlineError, Transient
from shared.masking import masked
from shared.ports import free_port
from shared.schemas import SortResult
from shared.server.connection import connect
from shared.server.error_translation import server_errors
from shared.settings import Settings, server_variables
from shared.subprocesses import NOT_BEGUN, Child, own_command

READY_TIMEOUT_S = 60.0
# How long the last results may take after the cameras are done.
LAST_RESULTS_S = 60.0
DEADLINE_MS = 300
# One drawing of each held-out frame, made in a few seconds before the stream starts.
POOL = 80
QUEUE = "live"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to show. `rate_hz` is per line; `out` is an existing folder for logs and the contact sheet."""

    seconds: float
    rate_hz: float
    lines: int
    out: Path
    seed: int = 0

    @property
    def line_names(self) -> list[str]:
        """Names of the simulated lines."""
        return [f"line-{number}" for number in range(1, self.lines + 1)]

    @property
    def frames_per_line(self) -> int:
        """Frames that each camera sends."""
        return max(1, round(self.seconds * self.rate_hz))


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What the demo did; `missing` and `doubled` are 0 when every accepted image has exactly one result."""

    submitted: int
    results: int
    missing: int
    doubled: int
    images_per_s: float
    p50_ms: float
    p99_ms: float
    outcomes: dict[str, int]
    labels: dict[str, int]
    classified: int
    deadline_ms: int
    exact_match: float
    model: str
    contact_sheet: str
    logs: str
    interrupted: bool

    @property
    def complete(self) -> bool:
        """Whether every accepted image has exactly one result."""
        return self.missing == 0 and self.doubled == 0


class Demo:
    """Runs one demo against the server of the settings."""

    def __init__(
        self,
        settings: Settings,
        options: DemoOptions,
        *,
        console: Console,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._options = options
        self._console = console
        self._sleep = sleep
        self._client: Any = connect(settings.redis_url)
        self._sources = {name: SimulatedSource(name, seed=options.seed, pool=POOL) for name in options.line_names}
        self._statistics = ResultStatistics(self._truth_of)
        self._stop = threading.Event()
        self._interrupted = threading.Event()
        self._reading_failed: SortlineError | None = None

    def run(self) -> DemoSummary:
        """Run the whole demo. Ctrl-C ends it early; the summary then covers what was done.

        Raises:
            Transient: a part did not start. The message names its log.
        """
        results = ResultReader(self._settings, drop_duplicates=False)
        results.last(0)  # skip the results of earlier runs
        with self._ctrl_c(), self._worker():
            reader = threading.Thread(target=self._read, args=(results,), daemon=True)
            reader.start()
            submitted = self._stream()
            self._stop.set()
            reader.join()
        results.close()
        if self._reading_failed is not None:
            raise self._reading_failed
        return self._summary(submitted)

    @contextlib.contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """Let the first Ctrl-C end the demo in good order, at any point, and the second one end it at once."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            self._interrupted.set()

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # parts ──────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _worker(self) -> Iterator[None]:
        port = free_port()
        log = self._options.out / "worker.log"
        # The worker reads the same environment and settings file as this process; only these settings differ.
        arguments = ["worker", "--metrics-port", str(port), "--queues", QUEUE]
        arguments += ["--model", self._settings.model]
        self._console.print("starting the worker")
        with Child(arguments, log=log, variables=server_variables(self._settings)) as worker:
            self._await_ready(worker, port)
            self._console.print(f"worker is ready; its metrics: http://127.0.0.1:{port}/metrics")
            yield

    def _await_ready(self, worker: Child, port: int) -> None:
        until = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < until and worker.poll() is None:
            with contextlib.suppress(urllib.error.URLError, TimeoutError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)  # our own worker
                return
            self._sleep(0.05)
        raise Transient(f"the worker did not become ready; the end of {worker.log}:\n{_tail(worker.log)}")

    def _camera(self, name: str) -> Child:
        out, options = self._options.out, self._options
        arguments = ["camera", "--line", name, "--source", "simulated", "--seed", str(options.seed), "--json"]
        arguments += ["--rate", str(options.rate_hz), "--count", str(options.frames_per_line), "--pool", str(POOL)]
        arguments += ["--deadline-ms", str(DEADLINE_MS), "--queue", QUEUE]
        summary = out / f"{name}.json"
        summary.unlink(missing_ok=True)
        variables = server_variables(self._settings)
        return Child(arguments, log=out / f"{name}.log", out=summary, variables=variables)

    # watching ───────────────────────────────────────────────────────────────────────────────────────

    def _stream(self) -> int:
        """Run the cameras and show the results; returns how many images the cameras enqueued."""
        with contextlib.ExitStack() as stack:
            cameras = {name: stack.enter_context(self._camera(name)) for name in self._options.line_names}
            self._watch(list(cameras.values()))
            if self._interrupted.is_set():
                self._console.print("stopping: first the cameras, then the worker, which finishes the jobs it holds")
        submitted = sum(self._accepted(name) for name, camera in cameras.items() if camera.poll() != NOT_BEGUN)
        until = time.monotonic() + LAST_RESULTS_S
        while len(self._statistics.seen) < submitted and time.monotonic() < until and self._reading_failed is None:
            self._sleep(0.05)
        return submitted

    def _watch(self, cameras: Sequence[Child]) -> None:
        started = time.time()
        shown_at = started
        terminal = self._console.is_terminal
        live = Live(console=self._console, refresh_per_second=4) if terminal else contextlib.nullcontext()
        with live as screen:
            while any(camera.poll() is None for camera in cameras) and not self._interrupted.is_set():
                self._sleep(0.25)
                now = time.time()
                with server_errors(self._settings.redis_url):
                    depth = int(self._client.llen(keys.rq_queue(QUEUE)))
                left = started + self._options.seconds - now
                if screen is not None:
                    screen.update(live_table.table(self._statistics, depth=depth, now=now, seconds_left=left))
                elif now - shown_at >= 5:
                    shown_at = now
                    self._console.print(live_table.line(self._statistics, depth=depth, now=now))

    def _read(self, results: ResultReader) -> None:
        try:
            for result in results.follow(self._stop):
                if result.line in self._sources:
                    self._statistics.add(result)
        except SortlineError as error:
            self._reading_failed = error
            self._interrupted.set()

    def _accepted(self, line: str) -> int:
        path = self._options.out / f"{line}.json"
        try:
            return int(json.loads(path.read_text())["accepted"])
        except (OSError, ValueError, KeyError) as error:
            log = path.with_suffix(".log")
            raise Transient(f"the camera of {line} left no summary; the end of {log}:\n{_tail(log)}") from error

    # afterwards ─────────────────────────────────────────────────────────────────────────────────────

    def _truth_of(self, result: SortResult) -> frozenset[str]:
        assert isinstance(result.frame_id, int)
        return self._sources[result.line].truth(result.frame_id)

    def _summary(self, submitted: int) -> DemoSummary:
        statistics, sheet = self._statistics, self._options.out / "contact-sheet.png"
        if cells := chosen_cells(statistics.examples, self._sources):
            title = "Sortline demo: simulated frames the model has never seen (red: some label is wrong)"
            write_sheet(cells, sheet, title=title)
        p50, p99 = statistics.percentiles_ms([50, 99])
        return DemoSummary(
            submitted=submitted,
            results=statistics.count,
            missing=submitted - len(statistics.seen),
            doubled=statistics.doubled,
            images_per_s=round(statistics.rate(), 1),
            p50_ms=round(p50, 1),
            p99_ms=round(p99, 1),
            outcomes=dict(statistics.outcomes),
            labels=dict(statistics.labels),
            classified=statistics.classified,
            deadline_ms=DEADLINE_MS,
            exact_match=round(statistics.exact / max(1, statistics.classified), 3),
            model=statistics.model,
            contact_sheet=str(sheet),
            logs=str(self._options.out),
            interrupted=self._interrupted.is_set(),
        )


def ensure_model(settings: Settings, *, console: Console) -> None:
    """Train the demo's model on first use, on the frames that the cameras don't show.

    Raises:
        Transient: training failed. Its own messages were shown.
    """
    command = own_command("models", "show", settings.model)
    known = subprocess.run(command, capture_output=True, check=False)  # noqa: S603  # our own program, without a shell
    if known.returncode == 0:
        console.print(f"model {settings.model}: already trained, in {masked(settings.model_store)}")
        return
    console.print(f"model {settings.model}: not trained yet; training it now (once; takes a minute or two)")
    # Trains only the head, because somebody is waiting for the demo. The layers of the backbone were tuned on the same
    # frames as the head; those that the cameras show were left out of both.
    command = own_command("train", str(BOTTLES), "--name", settings.model, "--fine-tune", "none")
    # Standard output is for the summary alone.
    trained = subprocess.run(command, check=False, stdout=sys.stderr)  # noqa: S603  # our own program, without a shell
    if trained.returncode != 0:
        raise Transient(f"training ended with exit code {trained.returncode}; its messages are above.")


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"
