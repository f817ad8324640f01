"""Deadlines hold in the server's time, however wrong the clocks of cameras and workers are. All clocks are made up."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import redis

from shared.clock import MEASURE_AGAIN_S, MEASURE_INTERVAL_S, ServerClock
from shared.jobs import SORT_IMAGE
from shared.schemas import Outcome, SortResult
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine
from tests.worker.step_inputs import A_MODEL, claimed, image_job, shade
from worker.canary.comparer import Comparer
from worker.models.routing import ActiveModels, Serving
from worker.observe.metrics import Metrics
from worker.pipeline import Pipeline
from worker.state.jobs import AdmittedJob, ClaimedJob, Lease
from worker.state.pixel_buffer import PixelSlot
from worker.steps.admit import Admission
from worker.steps.decide import Classified, Impossible, decide
from worker.steps.work import Decoded, Prediction

NOW = 1_800_000_000.0
OFF_S = 30.0
ROUND_TRIP_S = 0.0002
DEADLINE_S = 0.150
GOOD = (0.9, 0.05, 0.05)


class Plant:
    """Time, which passes only when a test says so, and the server's clock."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.server_ahead_s = 0.0

    def pass_by(self, seconds: float) -> None:
        self.elapsed_s += seconds

    def time(self) -> tuple[int, int]:
        """Like `redis.Redis.time`. Nearly all of a round trip is spent on the way out."""
        self.pass_by(0.9 * ROUND_TRIP_S)
        now = NOW + self.elapsed_s + self.server_ahead_s
        self.pass_by(0.1 * ROUND_TRIP_S)
        return int(now), int(now % 1 * 1e6)


class Machine:
    """A machine whose clock is wrong by `ahead_s`, and what a process on it knows of the server's time."""

    def __init__(self, plant: Plant, *, ahead_s: float) -> None:
        self._plant = plant
        self.ahead_s = ahead_s
        self.server_clock = ServerClock(
            cast(redis.Redis, plant), tolerance_s=5.0, clock=self.clock, monotonic=lambda: plant.elapsed_s
        )

    def clock(self) -> float:
        return NOW + self._plant.elapsed_s + self.ahead_s


class Line:
    """A camera's machine, which takes pictures, and a worker's, which sorts them."""

    def __init__(self, settings: Settings, *, camera_s: float, worker_s: float) -> None:
        self.plant = Plant()
        self.camera, self.worker = (Machine(self.plant, ahead_s=ahead_s) for ahead_s in (camera_s, worker_s))
        components = kit.pipeline_components(settings, ToneEngine())
        run = Pipeline(replace(components, server_clock=self.worker.server_clock), settings)
        self.flow = run._flow
        self._admission = Admission(run._flow, max_attempts=3)

    def captured(self, job_id: str = "j1", *, after_s: float = DEADLINE_S, by: Machine | None = None) -> ClaimedJob:
        """A picture, enqueued 5 ms after it was taken, and claimed 10 ms later."""
        camera = by or self.camera
        captured_at = camera.clock()
        argument = image_job(job_id, captured_at=captured_at, deadline_at=captured_at + after_s).model_dump(mode="json")
        camera.server_clock.measure()
        self.plant.pass_by(0.005)
        enqueued_at = camera.clock()
        self.plant.pass_by(0.010)
        return claimed(
            job_id,
            lease=Lease("live", job_id, "e", self.worker.clock()),
            data=zlib.compress(json.dumps([SORT_IMAGE, None, [argument], {}]).encode()),
            enqueued_at=enqueued_at,
            clock_offset_s=camera.server_clock.offset_s,
        )

    def admit(self, job: ClaimedJob) -> AdmittedJob:
        admitted = self._admission.check(job)
        assert isinstance(admitted, AdmittedJob), admitted
        return admitted

    def verdict(self, job: ClaimedJob) -> object:
        return self._admission.check(job)

    def answer(self, admitted: AdmittedJob) -> SortResult:
        """The result of a picture that the model has just seen."""
        result = decide(Classified(admitted=admitted, model=A_MODEL, at=self.flow.clock(), probabilities=GOOD)).result
        assert result is not None
        return result

    def left_s(self, admitted: AdmittedJob) -> float:
        """The time left before the worker gives the picture up, to 0.1 ms."""
        steps = (count / 1e4 for count in range(-10_000, 10_000))
        return next(needs_s for needs_s in steps if self.flow.misses_deadline(admitted, needs_s + 1e-4))


def decoded(admitted: AdmittedJob) -> Decoded:
    return Decoded(admitted, PixelSlot(shade(0)), decode_ms=0.1, ready_at=0.0, model=A_MODEL)


@pytest.fixture(params=[-OFF_S, 0.0, OFF_S], ids="camera{:+.0f}".format)
def camera_s(request: pytest.FixtureRequest) -> float:
    return cast(float, request.param)


@pytest.fixture(params=[-OFF_S, 0.0, OFF_S], ids="worker{:+.0f}".format)
def worker_s(request: pytest.FixtureRequest) -> float:
    return cast(float, request.param)


@pytest.fixture
def line(settings: Settings, camera_s: float, worker_s: float) -> Iterator[Line]:
    yield Line(settings, camera_s=camera_s, worker_s=worker_s)


def check_times(line: Line) -> None:
    """A picture of now has all of its time; its result says to the millisecond what is left, then that it is late."""
    job = line.captured()
    admitted = line.admit(job)
    taken_s = line.camera.clock() - admitted.job.captured_at
    assert line.left_s(admitted) == pytest.approx(DEADLINE_S - taken_s, abs=0.0005)
    line.plant.pass_by(0.100 - taken_s)
    in_time = line.answer(admitted)
    assert in_time.outcome is Outcome.SORTED
    assert in_time.deadline_margin_ms == pytest.approx(50.0, abs=0.5)
    assert in_time.timings_ms.total == pytest.approx(100.0, abs=0.5)
    assert in_time.timings_ms.queue == pytest.approx(10.0, abs=0.5)
    assert (in_time.captured_at, in_time.encoder_count) == (admitted.job.captured_at, admitted.job.encoder_count)
    server_now = NOW + line.plant.elapsed_s + line.plant.server_ahead_s
    assert in_time.finished_at == pytest.approx(server_now, abs=0.0005)
    line.plant.pass_by(0.051)
    late = line.answer(admitted)
    assert (late.outcome, late.lane) == (Outcome.LATE, "unsorted")
    assert late.deadline_margin_ms == pytest.approx(-1.0, abs=0.5)
    assert line.flow.misses_deadline(admitted, 0.0)


def test_nothing_expires_wrongly_and_late_is_late(line: Line) -> None:
    for _ in range(5):
        check_times(line)
        line.plant.pass_by(MEASURE_INTERVAL_S)


@pytest.mark.parametrize("by_s", [-OFF_S, OFF_S])
def test_after_the_servers_clock_was_set(line: Line, by_s: float) -> None:
    """Right again once both have measured, which they do every few seconds."""
    check_times(line)
    line.plant.server_ahead_s += by_s
    line.plant.pass_by(MEASURE_INTERVAL_S)
    line.worker.server_clock.measure()
    check_times(line)


@pytest.mark.parametrize("by_s", [-OFF_S, OFF_S])
@pytest.mark.parametrize("whose", ["camera", "worker"])
def test_soon_after_a_machines_own_clock_was_set(line: Line, whose: str, by_s: float) -> None:
    check_times(line)
    machine = line.camera if whose == "camera" else line.worker
    machine.ahead_s += by_s
    line.plant.pass_by(MEASURE_AGAIN_S)
    machine.server_clock.measure()
    check_times(line)


def test_the_first_job_of_a_worker_finds_the_servers_time_measured(settings: Settings) -> None:
    """Claims begin before the maintenance thread has measured it, and after an outage at the start."""
    line = Line(settings, camera_s=0.0, worker_s=OFF_S)
    assert not line.flow.misses_deadline(line.admit(line.captured()), 0.0)
    assert line.worker.server_clock.offset_s == pytest.approx(OFF_S, abs=ROUND_TRIP_S)


def test_batches_form_by_the_servers_time(line: Line) -> None:
    """The picture with the next deadline goes first, though its camera's clock is ahead of the other camera's."""
    ahead, behind = (Machine(line.plant, ahead_s=ahead_s) for ahead_s in (OFF_S, -OFF_S))
    first = line.admit(line.captured("first", by=ahead, after_s=1.0))
    second = line.admit(line.captured("second", by=behind, after_s=4.9))
    batcher = line.flow.batcher
    batcher.reserve(2)
    for admitted in (second, first):
        batcher.add(decoded(admitted))
    batcher.drain()
    batch = batcher.take(0.0)
    assert batch is not None
    assert [item.admitted.job.job_id for item in batch.items] == ["first", "second"]


def test_what_a_comparison_may_take_is_found_by_the_servers_time(line: Line) -> None:
    metrics = Metrics()
    models = ActiveModels(Serving(A_MODEL), metrics=metrics)
    comparer = Comparer(models, sink=kit.Heard(), max_waiting=8, metrics=metrics, clock=line.flow.clock)
    item = decoded(line.admit(line.captured(after_s=1.0)))
    comparer.after_batch([Prediction(item, np.array(GOOD, np.float32))])
    assert comparer.headroom.has(0.45)
    assert not comparer.headroom.has(0.55)


def test_a_capture_in_the_future_by_every_clock_is_rejected(line: Line) -> None:
    job = line.captured(after_s=1.0)
    verdict = line.verdict(replace(job, clock_offset_s=job.clock_offset_s - 3600))
    assert isinstance(verdict, Impossible)
    assert "s in the future" in str(verdict.error)
