"""Helpers for tests of the camera: a source of frames, and producers whose server is away or whose queue is full."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import pytest
from prometheus_client import REGISTRY

from producer import camera as camera_module
from producer.camera import Camera
from producer.camera_options import CameraOptions
from producer.camera_summary import CameraSummary
from producer.frames import PreparedJob
from producer.sources.base import Source, SourceFrame
from producer.submit import LineProducer
from shared.errors import Bound, QueueFull, RedisUnavailable
from shared.settings import Settings
from tests.producer.kit import jpeg


class Frames:
    """A source of good frames, except for the `special` ones."""

    def __init__(self, special: dict[int, SourceFrame] | None = None) -> None:
        self.special = special or {}
        self.number = 0
        self.limits: list[int] = []
        self.sent: list[str] = []

    def describe(self) -> str:
        return "good frames, captured now"

    def take(self, limit: int, timeout_s: float) -> list[SourceFrame]:
        self.limits.append(limit)
        numbers = range(self.number, self.number + limit)
        self.number += limit
        return [self.special.get(number, SourceFrame(number, f"frame {number}", jpeg())) for number in numbers]

    def accepted(self, frames: Sequence[SourceFrame]) -> None:
        self.sent += [frame.name for frame in frames]

    def count_missed(self, skipped: int) -> int:
        self.number += skipped
        return skipped

    def close(self) -> None:
        """Nothing to stop."""


def options(**change: object) -> CameraOptions:
    return CameraOptions(**{"line": "line-1", "camera": "camera-1", "count": 3, **change})  # type: ignore[arg-type]


def submitted(line: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("sortline_submitted_total", {"line": line, "outcome": outcome}) or 0.0


class FlakyProducer(LineProducer):
    """Loses the answer of the first calls, after the jobs were written or before."""

    def __init__(self, settings: Settings, *, failures: int, written: bool, on_failure: Callable[[], None]) -> None:
        super().__init__(settings)
        self.failures = failures
        self.written = written
        self.on_failure = on_failure

    def send(self, jobs: Sequence[PreparedJob], *, partial: bool = False) -> None:
        if self.failures:
            self.failures -= 1
            if self.written:
                super().send(jobs, partial=partial)
            self.on_failure()
            raise RedisUnavailable("no Redis server answers at redis://here.")
        super().send(jobs, partial=partial)


class StalledProducer(FlakyProducer):
    """The server is unavailable for a number of calls; each takes two seconds of the test's clock."""

    def __init__(self, settings: Settings, *, failures: int) -> None:
        super().__init__(settings, failures=failures, written=False, on_failure=self._wait)
        self.now = 1_700_000_000.0

    def _wait(self) -> None:
        self.now += 2.0


def stalled_camera(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    source: Source,
    *,
    failures: int = 5,
    on_progress: Callable[[CameraSummary], None] = lambda summary: None,
    **change: object,
) -> tuple[Camera, StalledProducer]:
    """A camera of 10 frames per second that each failure delays by two seconds."""
    monkeypatch.setattr(camera_module, "_RETRY_S", 0.0)
    producer = StalledProducer(settings, failures=failures)
    stop = threading.Event()

    def waits(timeout_s: float) -> bool:
        producer.now += timeout_s
        return stop.is_set()

    monkeypatch.setattr(stop, "wait", waits)
    clocks = {"clock": lambda: producer.now, "wall_clock": lambda: producer.now}
    chosen = options(**{"rate_hz": 10.0, **change})
    return Camera(chosen, source, producer, stop=stop, on_progress=on_progress, **clocks), producer  # type: ignore[arg-type]


class FullProducer(LineProducer):
    """Its queue refuses jobs as the test says, call by call; those that it takes are sent.

    `verdicts` has for each call the reasons by frame number; after these calls all jobs are accepted.
    """

    def __init__(
        self,
        settings: Settings,
        *verdicts: Mapping[int, Bound],
        retry_after_s: float = 1.0,
    ) -> None:
        super().__init__(settings)
        self.verdicts = list(verdicts)
        self.retry_after_s = retry_after_s
        self.now = 1_700_000_000.0
        self.calls: list[list[int]] = []
        self.called_at: list[float] = []

    def send(self, jobs: Sequence[PreparedJob], *, partial: bool = False) -> None:
        numbers = [int(job.description.rpartition(" ")[2]) for job in jobs]
        self.calls.append(numbers)
        self.called_at.append(round(self.now - 1_700_000_000.0, 3))
        verdict = self.verdicts.pop(0) if self.verdicts else {}
        refused = {job.job_id: verdict[number] for job, number in zip(jobs, numbers, strict=True) if number in verdict}
        fits = [job for job in jobs if job.job_id not in refused]
        super().send(fits, partial=partial)
        if refused:
            bound = next(iter(refused.values()))
            raise QueueFull(
                f"queue 'live' is at its bound of {bound.value}.",
                bound=bound,
                retry_after_s=self.retry_after_s,
                refused=refused,
                accepted=[job.job_id for job in fits],
            )


def full_camera(
    monkeypatch: pytest.MonkeyPatch,
    source: Source,
    producer: FullProducer,
    *,
    on_wait: Callable[[threading.Event], None] = lambda stop: None,
    **change: object,
) -> Camera:
    """A camera whose waits take no time, except on the producer's clock."""
    stop = threading.Event()

    def waits(timeout_s: float) -> bool:
        producer.now += timeout_s
        on_wait(stop)
        return stop.is_set()

    monkeypatch.setattr(stop, "wait", waits)
    clocks = {"clock": lambda: producer.now, "wall_clock": lambda: producer.now}
    return Camera(options(**change), source, producer, stop=stop, **clocks)


def refused(line: str) -> dict[str, float]:
    """The metric of refused frames: by reason, those that are not 0 or absent."""
    values = {
        bound.value: REGISTRY.get_sample_value("sortline_refused_frames_total", {"line": line, "reason": bound.value})
        for bound in Bound
    }
    return {reason: value for reason, value in values.items() if value}
