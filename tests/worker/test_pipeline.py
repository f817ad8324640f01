"""The pipeline's threads together: how each kind of job ends, how many are held, and how the pipeline ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis

from shared import keys
from shared.schemas import SortResult
from shared.settings import Settings
from tests.worker import kit, step_inputs
from tests.worker.kit import Clock, Gate, ToneEngine, frame, picture
from worker.models.routing import Serving
from worker.observe.metrics import Metrics
from worker.observe.supervisor import StageThread
from worker.rq.claimer import Claim
from worker.state.inflight import Inflight
from worker.state.jobs import ClaimedJob

# A deadline that passes only when a test's clock says so, even on a slow machine.
HOUR_MS = 3_600_000.0


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    """A metric's value; 0 for labels that were never counted."""
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_every_image_gets_exactly_one_result(settings: Settings, client: redis.Redis) -> None:
    good = kit.submit(settings, *[frame(picture(tone), frame_id=tone) for tone in range(0, 250, 5)])
    broken = kit.submit(settings, *[frame(kit.broken_picture()) for _ in range(5)])
    expired = kit.submit(settings, frame(captured_at=time.time() - 9, deadline_ms=10))
    bulk = kit.submit(settings, *[frame(queue="bulk") for _ in range(20)])
    metrics = kit.run_burst(settings)
    outcomes = kit.outcomes(client)
    assert outcomes == (
        dict.fromkeys([*good, *bulk], "sorted") | dict.fromkeys(broken, "rejected") | dict.fromkeys(expired, "expired")
    )
    assert sample(metrics, "sortline_jobs_total", line="l1", outcome="sorted") == 70
    assert sample(metrics, "sortline_jobs_total", line="l1", outcome="rejected") == 5
    assert sample(metrics, "sortline_jobs_total", line="l1", outcome="expired") == 1
    assert not client.keys("sortline:image:*")
    assert not client.keys("rq:execution*")


def test_each_image_gets_its_own_answer(settings: Settings, client: redis.Redis) -> None:
    """That holds in whatever order images are decoded and batched."""
    kit.submit(settings, *[frame(picture(tone), frame_id=tone) for tone in range(100, 160)])
    kit.run_burst(settings)
    results = kit.stream(client)
    assert len(results) == 60
    for result in results:
        assert isinstance(result.frame_id, int)
        labels = {label.label: label.probability for label in result.labels}
        if result.frame_id >= 128:
            assert labels == {"no cap": pytest.approx(result.frame_id / 255, abs=1e-5)}
        else:
            assert labels == {"good": pytest.approx(1 - result.frame_id / 255, abs=1e-5)}


def test_an_image_whose_deadline_passes_in_the_model_is_late(settings: Settings, client: redis.Redis) -> None:
    gate, clock = Gate(), Clock()
    run = kit.pipeline(settings, kit.pipeline_components(settings, ToneEngine(gate)), burst=True, clock=clock)
    (job_id,) = kit.submit(settings, frame(deadline_ms=HOUR_MS))
    run.start()
    assert gate.entered.wait(kit.PATIENCE_S)
    clock.pass_by(2 * HOUR_MS / 1000)
    gate.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == {job_id: "late"}


def test_an_image_whose_deadline_passes_behind_a_slow_batch_is_not_classified(
    settings: Settings, client: redis.Redis
) -> None:
    single = settings.model_copy(update={"max_batch": 1})
    gate, clock = Gate(), Clock()
    engine = ToneEngine(gate)
    run = kit.pipeline(single, kit.pipeline_components(single, engine), burst=True, clock=clock)
    (slow,) = kit.submit(single, frame())
    run.start()
    assert gate.entered.wait(kit.PATIENCE_S)
    (too_late,) = kit.submit(single, frame(deadline_ms=HOUR_MS))
    kit.wait_until(lambda: len(run._flow.batcher) == 1, "it is decoded and waits for the model")
    clock.pass_by(2 * HOUR_MS / 1000)
    gate.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == {slow: "sorted", too_late: "expired"}
    assert engine.sizes == [1]


def test_a_failing_item_is_retried_and_fails_alone(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame(picture(tone)) for tone in (0, 255, 0, 0)])
    metrics = kit.run_burst(settings, ToneEngine(kit.fails_on_red))
    assert [kit.outcomes(client)[job_id] for job_id in job_ids] == ["sorted", "failed", "sorted", "sorted"]
    (failed,) = [result for result in kit.stream(client) if result.outcome == "failed"]
    assert failed.attempt == 3
    assert failed.error is not None and "can't stand red" in failed.error
    assert sample(metrics, "sortline_retried_total") == 2


def test_at_most_three_batches_are_held(settings: Settings, client: redis.Redis) -> None:
    small = settings.model_copy(update={"max_batch": 4})
    kit.submit(small, *[frame() for _ in range(40)])
    gate = Gate()
    components = kit.pipeline_components(small, ToneEngine(gate))
    run = kit.pipeline(small, components, burst=True)
    run.start()
    assert gate.entered.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: len(components.inflight) == 12, "it holds three batches")
    assert client.zcard(keys.rq_wip("live")) == 12
    assert client.llen(keys.rq_queue("live")) == 28
    gate.opened.set()
    kit.finish(run)
    assert len(kit.outcomes(client)) == 40


def test_its_workload_is_what_it_holds_to_compute_of_what_keeps_it_busy(settings: Settings) -> None:
    """The claim step counts so: jobs whose results are only to be written take no place."""
    components = kit.pipeline_components(settings, ToneEngine())
    run = kit.pipeline(settings, components)
    leases = [step_inputs.claimed(f"j{number}").lease for number in range(5)]
    components.inflight.add(leases)
    components.inflight.answer(leases[:2])
    assert run.workload().taken == 3
    cost = components.active_models.current.stable.cost
    for size in (1, settings.max_batch):
        cost.observe(size, 0.020 * size)
    places = run.workload().places
    assert places == run._flow.latency.enough_held(cost)
    assert 0 < places < settings.max_batch, "a slow engine is busy with few"


def test_draining_finishes_the_held_jobs_and_leaves_the_rest(settings: Settings, client: redis.Redis) -> None:
    small = settings.model_copy(update={"max_batch": 4})
    job_ids = kit.submit(small, *[frame() for _ in range(40)])
    gate = Gate()
    components = kit.pipeline_components(small, ToneEngine(gate))
    run = kit.pipeline(small, components)
    run.start()
    kit.wait_until(lambda: len(components.inflight) == 12, "it holds three batches")
    run.drain()
    gate.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys(job_ids[:12], "sorted")
    assert client.llen(keys.rq_queue("live")) == 28
    assert client.zcard(keys.rq_wip("live")) == 0


def test_abandoning_gives_all_jobs_back_at_once(settings: Settings, client: redis.Redis) -> None:
    small = settings.model_copy(update={"max_batch": 4})
    job_ids = kit.submit(small, *[frame() for _ in range(20)])
    gate = Gate()
    components = kit.pipeline_components(small, ToneEngine(gate))
    run = kit.pipeline(small, components)
    run.start()
    kit.wait_until(lambda: len(components.inflight) == 12, "it holds three batches")
    run.drain()
    assert run.abandon() == 12
    assert [item.decode() for item in client.lrange(keys.rq_queue("live"), 0, -1)] == job_ids
    gate.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == {}, "a job was finished without its lease"
    kit.run_burst(small, worker="w2")
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")


def test_abandoning_gives_back_the_jobs_of_a_claim_under_way(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`abandon` waits for the claim, usually for a second; here longer, since the machine may be busy."""
    monkeypatch.setattr("worker.pipeline.IDLE_WAIT_S", kit.PATIENCE_S)
    (job_id,) = kit.submit(settings, frame())
    gate, asked, go_on = Gate(), threading.Event(), threading.Event()
    components = kit.pipeline_components(settings, ToneEngine(gate))
    claim = components.claimer.claim

    def claim_late(limit: int, **bounds: int) -> Claim:
        asked.set()
        assert go_on.wait(kit.PATIENCE_S)
        return claim(limit, **bounds)

    components.claimer.claim = claim_late  # type: ignore[method-assign]
    run = kit.pipeline(settings, components)
    run.start()
    assert asked.wait(kit.PATIENCE_S)
    with ThreadPoolExecutor(1) as pool:
        given_back = pool.submit(run.abandon)
        kit.wait_until(run._stop_claiming.is_set, "the pipeline is told to give its jobs back")
        go_on.set()
        assert given_back.result() == 1
    gate.opened.set()
    assert client.lrange(keys.rq_queue("live"), 0, -1) == [job_id.encode()]
    kit.finish(run)


def test_a_burst_does_not_overlook_a_job_that_is_put_back(settings: Settings, client: redis.Redis) -> None:
    """The claim finds the queue empty, and right after that the job in the model fails and goes back to the queue."""
    (job_id,) = kit.submit(settings, frame())
    gate, failed = Gate(), threading.Event()

    def fail_once(batch: kit.Pixels) -> None:
        gate(batch)
        if not failed.is_set():
            failed.set()
            raise RuntimeError("out of order")

    components = kit.pipeline_components(settings, ToneEngine(fail_once))
    claim = components.claimer.claim

    def claim_slowly(limit: int, **bounds: int) -> Claim:
        answer = claim(limit, **bounds)
        if gate.entered.is_set() and not answer.jobs and not gate.opened.is_set():
            gate.opened.set()
            kit.wait_until(lambda: len(components.inflight) == 0, "the job is put back")
        return answer

    components.claimer.claim = claim_slowly  # type: ignore[method-assign]
    run = kit.pipeline(settings, components, burst=True)
    run.start()
    kit.finish(run)
    assert kit.outcomes(client) == {job_id: "sorted"}


def test_jobs_whose_images_could_not_be_fetched_are_held_until_they_can(
    settings: Settings, client: redis.Redis
) -> None:
    """The jobs are already claimed, so nobody else would answer them, and they should not lose an attempt."""
    job_ids = kit.submit(settings, frame(), frame())
    components = kit.pipeline_components(settings, ToneEngine())
    fetch, held = components.claimer.images, []

    def lost_once(jobs: Sequence[ClaimedJob]) -> list[bytes | None]:
        if jobs and not held:
            held.extend(lease.job_id for lease in components.inflight.held())
            raise redis.exceptions.ConnectionError("Connection closed by server.")
        return fetch(jobs)

    components.claimer.images = lost_once  # type: ignore[method-assign]
    run = kit.pipeline(settings, components, burst=True)
    run.start()
    kit.finish(run)
    assert sorted(held) == sorted(job_ids)
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")
    assert {result.attempt for result in kit.stream(client)} == {1}


def test_a_job_taken_back_at_the_very_end_is_left_to_another_worker(settings: Settings, client: redis.Redis) -> None:
    """The job is given up, but the threads that would answer it have ended. Another worker must get it at once."""
    (job_id,) = kit.submit(settings, frame())
    client.hset(keys.rq_job(job_id), keys.LOSSES, settings.max_losses - 1)
    (job,) = kit.claimer(settings, worker="dead").claim(1).jobs
    client.zadd(keys.rq_wip("live"), {f"{job_id}:{job.lease.execution_id}": 1.0})
    components = kit.pipeline_components(settings, ToneEngine())
    run = kit.pipeline(settings, components)
    reap, reaping = components.keeper.reap, threading.Event()

    def reap_late() -> tuple[int, list[ClaimedJob]]:
        reaping.set()
        assert run.ended.wait(kit.PATIENCE_S)
        return reap()

    components.keeper.reap = reap_late  # type: ignore[method-assign]
    run.start()
    assert reaping.wait(kit.PATIENCE_S)
    run.drain()
    kit.finish(run)
    _, given_up = kit.keeper(settings, Inflight(), worker="w2").reap()
    assert [job.lease.job_id for job in given_up] == [job_id]


def test_a_decode_thread_that_breaks_ends_the_worker(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its jobs would be held for ever, and nobody would notice."""
    components = kit.pipeline_components(settings, ToneEngine())

    def broken(*args: object, **kwargs: object) -> SortResult:
        raise RuntimeError("a bug")

    monkeypatch.setattr(components.active_models.current.stable.decider, "rejected", broken)
    kit.submit(settings, frame(kit.broken_picture()))
    run = kit.pipeline(settings, components)
    run.start()
    assert run.supervisor.failed.wait(kit.PATIENCE_S)
    assert run.abandon() == 1


def test_two_workers_share_the_work_and_no_job_is_done_twice(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame() for _ in range(200)])
    runs = [
        kit.pipeline(settings, kit.pipeline_components(settings, ToneEngine(), worker=name), burst=True)
        for name in ("w1", "w2")
    ]
    for run in runs:
        run.start()
    for run in runs:
        kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")


def test_the_engines_time_is_counted_by_its_state(settings: Settings) -> None:
    """It is busy while it runs a batch, and waiting while held jobs don't reach it, here because decoding hangs."""
    gate, slow_s = Gate(), 0.05
    model = kit.model(ToneEngine(lambda batch: time.sleep(slow_s)))

    class HeldDecoder:
        def __call__(self, data: bytes, camera: str) -> kit.Pixels:
            return model.decoder(data, camera)

        def is_costly(self, data: bytes, camera: str) -> bool:
            return False

        def decode_into(self, data: bytes, camera: str, out: kit.Pixels) -> None:
            gate(out)
            model.decoder.decode_into(data, camera, out)

    components = kit.pipeline_components(settings, Serving(replace(model, decoder=HeldDecoder())))
    kit.submit(settings, *[frame() for _ in range(3)])
    run = kit.pipeline(settings, components, burst=True)
    run.start()
    kit.wait_until(
        lambda: sample(components.metrics, "sortline_engine_seconds_total", state="waiting"), "the engine waits"
    )
    gate.opened.set()
    kit.finish(run)
    assert sample(components.metrics, "sortline_engine_seconds_total", state="busy") >= slow_s


def test_an_engine_is_idle_while_jobs_are_answered_without_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    components = kit.pipeline_components(settings, ToneEngine())
    run = kit.pipeline(settings, components)
    kit.submit(
        settings, frame(kit.broken_picture())
    )  # a single job, as with two the order of the observations is not fixed
    observed: list[bool] = []
    monkeypatch.setattr(run._flow.engine_clock, "observe_queue", lambda *, is_idle: observed.append(is_idle))
    # Only the claim and decode steps run, so that only they observe the queue.
    steps = {stage.name: stage.step for stage in run._stages()}
    run._claim.may_begin.set()
    for name in ("claim", "decode"):
        steps[name](StageThread(name, run.supervisor))
    assert (observed[0], observed[-1]) == (False, True)


def test_an_engine_with_a_concurrency_of_two_gets_two_batches_at_once(settings: Settings, client: redis.Redis) -> None:
    both_in = threading.Barrier(2, timeout=kit.PATIENCE_S)
    engine = ToneEngine(lambda batch: both_in.wait() and None)
    engine.max_concurrency = 2
    settings = settings.model_copy(update={"max_batch": 2, "linger_ms": 10_000.0})  # full batches only
    job_ids = kit.submit(settings, *[frame(picture(20 * number)) for number in range(12)])
    kit.run_burst(settings, engine)
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")
    assert engine.sizes == [2] * 6


def test_the_next_batch_starts_at_the_latest_when_one_ends(settings: Settings, client: redis.Redis) -> None:
    class Silent(ToneEngine):
        max_concurrency = 2

        def predict(self, batch: kit.Pixels, **on_ready_for_next: object) -> kit.NDArray[kit.np.float32]:
            return super().predict(batch)

    good = [frame(picture(20 * number)) for number in range(10)]
    job_ids = kit.submit(settings, *good, frame(picture(red=255)))
    kit.run_burst(settings, Silent(kit.fails_on_red))
    assert kit.outcomes(client) == dict.fromkeys(job_ids[:-1], "sorted") | {job_ids[-1]: "failed"}
