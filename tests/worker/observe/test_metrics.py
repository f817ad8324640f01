"""The names that dashboards rely on, and what they say."""

from __future__ import annotations

import re
import time
from collections import Counter as Tally

import pytest
import redis
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared import keys
from shared.schemas import SortResult
from shared.server.connection import connect
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame, picture
from worker.observe.distribution import Distribution
from worker.observe.engine_clock import EngineClock
from worker.observe.metrics import LATENCY_BUCKETS_S, MARGIN_BUCKETS_S, Metrics
from worker.observe.queue_gauges import QueueGauges

# DESIGN: sample name and its labels. A histogram is named by its count.
NAMES = {
    ("sortline_jobs_total", ("line", "outcome")),
    ("sortline_labels_total", ("label", "line")),
    ("sortline_lanes_total", ("lane", "line")),
    ("sortline_stage_seconds_count", ("stage",)),
    ("sortline_capture_to_result_seconds_count", ("line",)),
    ("sortline_deadline_margin_seconds_count", ("line",)),
    ("sortline_batch_size_count", ()),
    ("sortline_batches_total", ("reason",)),
    ("sortline_queue_depth", ("queue",)),
    ("sortline_queue_oldest_seconds", ("queue",)),
    ("sortline_inflight_jobs", ()),
    ("sortline_model_info", ("engine", "name", "version")),
    ("sortline_model_load_seconds", ()),
    ("sortline_redelivered_total", ()),
}


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples as Prometheus parses them, by name and sorted labels."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def gauges(settings: Settings) -> QueueGauges:
    return QueueGauges(connect(settings.redis_url), queues=["live", "bulk"])


def test_every_name_of_the_design_is_exposed(settings: Settings, gauges: QueueGauges) -> None:
    kit.submit(settings, frame(deadline_ms=60_000), frame(picture(255), line="l2"), frame(kit.broken_picture()))
    metrics = kit.run_burst(settings)
    metrics.registry.register(gauges)
    found = samples(metrics.registry)
    assert {(name, tuple(label for label, _ in labels)) for name, labels in found} >= NAMES
    stages = {dict(labels)["stage"] for name, labels in found if name == "sortline_stage_seconds_count"}
    assert stages == {"queue", "decode", "batch", "infer", "finish"}


def test_what_is_counted(settings: Settings) -> None:
    kit.submit(
        settings,
        *[frame(deadline_ms=60_000) for _ in range(3)],
        *[frame(picture(255), line="l2") for _ in range(2)],
        frame(kit.broken_picture()),
    )
    found = samples(kit.run_burst(settings).registry)
    assert found["sortline_jobs_total", (("line", "l1"), ("outcome", "sorted"))] == 3
    assert found["sortline_jobs_total", (("line", "l1"), ("outcome", "rejected"))] == 1
    assert found["sortline_jobs_total", (("line", "l2"), ("outcome", "sorted"))] == 2
    assert found["sortline_labels_total", (("label", "good"), ("line", "l1"))] == 3
    assert found["sortline_labels_total", (("label", "no cap"), ("line", "l2"))] == 2
    assert found["sortline_lanes_total", (("lane", "unsorted"), ("line", "l1"))] == 1
    assert found["sortline_lanes_total", (("lane", "no-cap"), ("line", "l2"))] == 2
    assert found["sortline_capture_to_result_seconds_count", (("line", "l1"),)] == 4
    assert found["sortline_deadline_margin_seconds_count", (("line", "l1"),)] == 3
    assert found["sortline_stage_seconds_count", (("stage", "infer"),)] == 5
    assert found["sortline_batch_size_sum", ()] == 5
    assert found["sortline_inflight_jobs", ()] == 0


def test_no_label_is_unbounded(settings: Settings) -> None:
    """Neither job nor frame ids, however many jobs there are."""

    def series(count: int) -> int:
        kit.submit(settings, *[frame(frame_id=number) for number in range(count)])
        found = samples(kit.run_burst(settings).registry)
        return len([name for name in found if not name[0].startswith("sortline_batches")])

    assert series(1) == series(60)


def test_names_of_lines_are_bounded(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """A line's name comes with the job: 8,000 forged ones made each scrape 54 MB."""
    kit.submit(settings, *[frame(line=f"l{number}", deadline_ms=60_000) for number in range(12)])
    metrics = Metrics(max_lines=3)
    results = all_results(settings)
    for _ in range(2):
        metrics.observe_results(results)
    jobs: Tally[str] = Tally()
    for (name, labels), value in samples(metrics.registry).items():
        if name == "sortline_jobs_total":
            jobs[dict(labels)["line"]] += int(value)
    named = {result.line for result in results[:3]}
    assert jobs == dict.fromkeys(named, 2) | {"other": 2 * 9}
    assert {dict(labels).get("line") for _, labels in samples(metrics.registry)} == {*named, "other", None}
    said = [record.message for record in caplog.records if record.name == "sortline.metrics"]
    assert len(said) == 1
    assert "metrics_max_lines" in said[0]


def all_results(settings: Settings) -> list[SortResult]:
    """The results of what waits, and of all lines so far."""
    kit.run_burst(settings)
    with connect(settings.redis_url) as client:
        return [result for line in client.smembers(keys.LINES) for result in kit.stream(client, line.decode())]


def test_our_own_collectors_are_found_by_name(settings: Settings, gauges: QueueGauges) -> None:
    """`/metrics?name[]=` asks for some of the metrics; the registry knows them by what collectors describe."""
    kit.submit(settings, frame())
    metrics = kit.run_burst(settings)
    metrics.registry.register(gauges)
    names = ["sortline_capture_to_result_seconds_count", "sortline_queue_depth", "sortline_redis_memory_max_bytes"]
    text = generate_latest(metrics.registry.restricted_registry(names)).decode()
    assert 'sortline_capture_to_result_seconds_count{line="l1"} 1.0' in text
    assert 'sortline_queue_depth{queue="live"} 0.0' in text
    assert "sortline_redis_memory_max_bytes 0.0" in text


def test_reasons_of_batches_are_those_of_the_design(settings: Settings) -> None:
    kit.submit(settings, *[frame() for _ in range(40)])
    found = samples(kit.run_burst(settings).registry)
    reasons = {dict(labels)["reason"] for name, labels in found if name == "sortline_batches_total"}
    assert reasons
    assert reasons <= {"full", "deadline", "linger", "drain"}


def test_the_models_time_is_counted_once_however_many_batches_are_in_it() -> None:
    now = [10.0]
    metrics = Metrics()
    engine_clock = EngineClock(metrics.engine_seconds, clock=lambda: now[0])
    for step, seconds in (
        (lambda: engine_clock.look(is_idle=False), 1.0),  # idle until now
        (engine_clock.entered, 2.0),  # waiting until now
        (engine_clock.entered, 4.0),  # busy from here on
        (engine_clock.left, 8.0),
        (engine_clock.left, 16.0),
        (lambda: engine_clock.look(is_idle=True), 32.0),
        (lambda: engine_clock.look(is_idle=False), 64.0),
    ):
        now[0] += seconds
        step()
    counted = {
        state: metrics.registry.get_sample_value("sortline_engine_seconds_total", {"state": state})
        for state in ("idle", "waiting", "busy")
    }
    assert counted == {"idle": 1.0 + 64.0, "waiting": 2.0 + 32.0, "busy": 4.0 + 8.0 + 16.0}


def test_a_failed_attempt_is_not_an_ended_job(settings: Settings) -> None:
    kit.submit(settings, frame())
    found = samples(kit.run_burst(settings, ToneEngine(kit.always_fails)).registry)
    ended = {labels: value for (name, labels), value in found.items() if name == "sortline_jobs_total"}
    assert ended == {(("line", "l1"), ("outcome", "failed")): 1}
    assert found["sortline_retried_total", ()] == 2


# distributions ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bounds", [LATENCY_BUCKETS_S, MARGIN_BUCKETS_S], ids=["latency", "margin"])
def test_distributions_are_exposed_as_the_clients_own_histogram(bounds: tuple[float, ...]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    distribution = Distribution("x_seconds", "X.", label="line", bounds=bounds)
    ours.register(distribution)
    histogram = Histogram("x_seconds", "X.", ["line"], buckets=bounds, registry=theirs)
    for number, value in enumerate((0.0, 0.001, 0.0011, 0.1, 1.0, 4.9, bounds[0], bounds[-1])):
        distribution.observe(f"l{number % 2}", value)
        histogram.labels(f"l{number % 2}").observe(value)
    expected = {key: value for key, value in samples(theirs).items() if not key[0].endswith("_created")}
    assert samples(ours) == pytest.approx(expected)
    assert _types(ours) == _types(theirs)


@pytest.mark.parametrize("bounds", [LATENCY_BUCKETS_S, MARGIN_BUCKETS_S], ids=["latency", "margin"])
@pytest.mark.parametrize("value", [1e303, -1e303, 1e9, -1e9, float("inf"), float("-inf"), float("nan")])
def test_a_wrong_clock_does_not_spoil_a_sum(bounds: tuple[float, ...], value: float) -> None:
    """One observation counts once, in the bucket where it belongs, and moves the sum by no more than the range."""
    registry = CollectorRegistry()
    distribution = Distribution("x_seconds", "X.", label="line", bounds=bounds)
    registry.register(distribution)
    for each in (0.5, value, 0.25):
        distribution.observe("l1", each)
    assert 0.75 + min(0.0, bounds[0]) <= distribution._sums["l1"] <= 0.75 + bounds[-1]
    assert samples(registry)["x_seconds_count", (("line", "l1"),)] == 3
    beyond = samples(registry)["x_seconds_bucket", (("le", str(bounds[-1])), ("line", "l1"))]
    assert beyond == (2 if value > bounds[-1] else 3)


def test_impossible_times_are_in_no_histogram(settings: Settings, client: redis.Redis) -> None:
    """An hour ahead, a result would look as if it came before its image."""
    kit.submit(settings, frame(deadline_ms=60_000))
    kit.forge(client, kit.submit(settings, frame())[0], captured_at=time.time() + 3600, deadline_at=time.time() + 3601)
    found = samples(kit.run_burst(settings).registry)
    assert found["sortline_jobs_total", (("line", "l1"), ("outcome", "rejected"))] == 1
    assert found["sortline_capture_to_result_seconds_count", (("line", "l1"),)] == 1
    assert found["sortline_deadline_margin_seconds_count", (("line", "l1"),)] == 1


def _types(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if re.match(r"# TYPE x_seconds ", line)]


@pytest.mark.parametrize("bounds", [LATENCY_BUCKETS_S, MARGIN_BUCKETS_S], ids=["latency", "margin"])
def test_buckets_ascend(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


# queues ─────────────────────────────────────────────────────────────────────────────────────────────


def queue_samples(gauges: QueueGauges) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry()
    registry.register(gauges)
    return samples(registry)


LIVE, BULK = (("queue", "live"),), (("queue", "bulk"),)


def test_an_empty_queue_is_a_real_zero(client: redis.Redis, gauges: QueueGauges) -> None:
    found = queue_samples(gauges)
    assert {key: value for key, value in found.items() if not key[0].startswith("sortline_redis_memory_")} == {
        ("sortline_redis_up", ()): 1,
        ("sortline_queue_depth", LIVE): 0,
        ("sortline_queue_depth", BULK): 0,
        ("sortline_queue_oldest_seconds", LIVE): 0,
        ("sortline_queue_oldest_seconds", BULK): 0,
    }


def test_depth_and_age_of_the_job_at_the_front(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, *[frame() for _ in range(3)])
    later = QueueGauges(connect(settings.redis_url), queues=["live", "bulk"], clock=lambda: time.time() + 100)
    found = queue_samples(later)
    assert found["sortline_queue_depth", LIVE] == 3
    assert found["sortline_queue_oldest_seconds", LIVE] == pytest.approx(100, abs=kit.PATIENCE_S)
    assert found["sortline_queue_depth", BULK] == 0


def test_a_deleted_job_at_the_front_has_no_age(settings: Settings, client: redis.Redis, gauges: QueueGauges) -> None:
    (job_id,) = kit.submit(settings, frame())
    client.delete(keys.rq_job(job_id))
    found = queue_samples(gauges)
    assert found["sortline_queue_depth", LIVE] == 1
    assert found["sortline_queue_oldest_seconds", LIVE] == 0


@pytest.mark.parametrize("key", [keys.rq_queue("bulk"), keys.rq_job("j1")])
def test_a_key_of_another_type_hides_its_own_queue_alone(client: redis.Redis, gauges: QueueGauges, key: str) -> None:
    """The whole server counted as away."""
    client.rpush(keys.rq_queue("bulk"), "j1")
    client.delete(key)
    client.set(key, "text")
    found = queue_samples(gauges)
    assert found["sortline_redis_up", ()] == 1
    assert found["sortline_queue_depth", LIVE] == 0
    assert ("sortline_queue_depth", BULK) not in found
    assert found["sortline_redis_memory_used_bytes", ()] > 0


def test_the_servers_memory_and_its_bound(client: redis.Redis, gauges: QueueGauges) -> None:
    client.config_set("maxmemory", "64mb")
    try:
        found = queue_samples(gauges)
    finally:
        client.config_set("maxmemory", 0)
    assert found["sortline_redis_memory_max_bytes", ()] == 64 * 1024 * 1024
    assert 0 < found["sortline_redis_memory_used_bytes", ()] < 64 * 1024 * 1024


def test_a_user_who_may_not_ask_for_memory_still_sees_the_queues(client: redis.Redis, gauges: QueueGauges) -> None:
    client.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        found = queue_samples(gauges)
    finally:
        client.execute_command("ACL", "SETUSER", "default", "+info")
    assert found["sortline_redis_up", ()] == 1
    assert found["sortline_queue_depth", LIVE] == 0
    assert not [name for name, _ in found if name.startswith("sortline_redis_memory_")]


def test_with_the_server_away_the_scrape_still_answers() -> None:
    found = queue_samples(QueueGauges(connect("redis://127.0.0.1:1/0"), queues=["live"]))
    assert found == {("sortline_redis_up", ()): 0}


def test_scrapes_within_a_second_share_a_reading(settings: Settings, client: redis.Redis) -> None:
    now = [time.time()]
    gauges = QueueGauges(connect(settings.redis_url), queues=["live"], clock=lambda: now[0])
    assert queue_samples(gauges)["sortline_queue_depth", LIVE] == 0
    kit.submit(settings, frame())
    now[0] += 0.5
    assert queue_samples(gauges)["sortline_queue_depth", LIVE] == 0
    now[0] += 0.6
    assert queue_samples(gauges)["sortline_queue_depth", LIVE] == 1


def test_a_clock_that_is_set_back_does_not_freeze_the_reading(settings: Settings, client: redis.Redis) -> None:
    now = [time.time()]
    gauges = QueueGauges(connect(settings.redis_url), queues=["live"], clock=lambda: now[0])
    assert queue_samples(gauges)["sortline_queue_depth", LIVE] == 0
    kit.submit(settings, frame())
    now[0] -= 3600
    assert queue_samples(gauges)["sortline_queue_depth", LIVE] == 1


def test_metrics_of_two_workers_in_one_process_are_apart() -> None:
    first, second = Metrics(), Metrics()
    first.retried.inc()
    assert samples(second.registry)["sortline_retried_total", ()] == 0
