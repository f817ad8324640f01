"""The metrics that dashboards rely on, and their values."""

from __future__ import annotations

import re
import time
from collections import Counter as Tally

import pytest
import redis
from prometheus_client import generate_latest

from shared import keys
from shared.schemas import Outcome, SortResult
from shared.server.connection import connect
from shared.settings import Settings
from tests.kit import PROJECT
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame, picture
from tests.worker.observe.exposition import samples
from worker.observe.metrics import Metrics
from worker.observe.queue_gauges import QueueGauges

# The sample names that dashboards rely on, and their labels. A histogram is named by its count.
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


def test_the_steps_whose_calls_can_fail_begin_at_zero() -> None:
    """Otherwise Prometheus sees no increase at the first failure. The steps are those that the documentation names."""
    found = samples(Metrics().registry)
    errors = {labels[0][1]: value for (name, labels), value in found.items() if name == "sortline_server_errors_total"}
    documented = (PROJECT / "docs/metrics.md").read_text(encoding="utf-8")
    (row,) = (line for line in documented.splitlines() if line.startswith("| `sortline_server_errors_total{step}`"))
    assert errors == dict.fromkeys(re.findall(r"`([a-z-]+)`", row), 0.0)
    assert len(errors) == 8


def test_every_sample_is_exposed_with_its_labels(settings: Settings, gauges: QueueGauges) -> None:
    kit.submit(settings, frame(deadline_ms=60_000), frame(picture(255), line="l2"), frame(kit.broken_picture()))
    metrics = kit.run_burst(settings)
    metrics.registry.register(gauges)
    found = samples(metrics.registry)
    assert {(name, tuple(label for label, _ in labels)) for name, labels in found} >= NAMES
    stages = {dict(labels)["stage"] for name, labels in found if name == "sortline_stage_seconds_count"}
    assert stages == {"queue", "decode", "batch", "infer", "finish"}


def test_jobs_labels_lanes_and_times_are_counted(settings: Settings) -> None:
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


def test_the_number_of_series_does_not_grow_with_the_jobs(settings: Settings) -> None:
    """No label holds a job id or a frame id."""

    def series(count: int) -> int:
        kit.submit(settings, *[frame(frame_id=number) for number in range(count)])
        found = samples(kit.run_burst(settings).registry)
        return len([name for name in found if not name[0].startswith("sortline_batches")])

    assert series(1) == series(60)


def test_names_of_lines_are_bounded(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """A line's name comes with the job, and a producer may send any name: with 8,000, each scrape was 54 MB."""
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
    messages = [record.message for record in caplog.records if record.name == "sortline.metrics"]
    assert len(messages) == 1
    assert "metrics_max_lines" in messages[0]


def all_results(settings: Settings) -> list[SortResult]:
    """Sort the jobs that wait; the results of all lines."""
    kit.run_burst(settings)
    with connect(settings.redis_url) as client:
        return [result for line in client.smembers(keys.LINES) for result in kit.stream(client, line.decode())]


def test_our_own_collectors_are_found_by_name(settings: Settings, gauges: QueueGauges) -> None:
    """`/metrics?name[]=` asks for some metrics; the registry finds them by the names that each collector describes."""
    kit.submit(settings, frame())
    metrics = kit.run_burst(settings)
    metrics.registry.register(gauges)
    names = ["sortline_capture_to_result_seconds_count", "sortline_queue_depth", "sortline_redis_memory_max_bytes"]
    text = generate_latest(metrics.registry.restricted_registry(names)).decode()
    assert 'sortline_capture_to_result_seconds_count{line="l1"} 1.0' in text
    assert 'sortline_queue_depth{queue="live"} 0.0' in text
    assert "sortline_redis_memory_max_bytes 0.0" in text


def test_batches_have_known_reasons(settings: Settings) -> None:
    kit.submit(settings, *[frame() for _ in range(40)])
    found = samples(kit.run_burst(settings).registry)
    reasons = {dict(labels)["reason"] for name, labels in found if name == "sortline_batches_total"}
    assert reasons == {"full", "deadline", "linger", "drain"}


def test_series_exist_before_their_first_event(settings: Settings) -> None:
    """Prometheus sees no increase in a series that begins with 1, so an alert would miss a line's first late job."""
    metrics = Metrics()
    batches = {labels: value for (name, labels), value in samples(metrics.registry).items() if "batches_total" in name}
    assert list(batches.values()) == [0, 0, 0, 0]
    kit.submit(settings, frame())
    metrics.observe_results(all_results(settings))
    found = samples(metrics.registry)
    jobs = {dict(labels)["outcome"]: value for (name, labels), value in found.items() if name == "sortline_jobs_total"}
    assert jobs == {outcome.value: int(outcome is Outcome.SORTED) for outcome in Outcome}


def test_a_failed_attempt_is_not_an_ended_job(settings: Settings) -> None:
    kit.submit(settings, frame())
    found = samples(kit.run_burst(settings, ToneEngine(kit.always_fails)).registry)
    ended = {labels: value for (name, labels), value in found.items() if name == "sortline_jobs_total"}
    assert {labels for labels, count in ended.items() if count} == {(("line", "l1"), ("outcome", "failed"))}
    assert found["sortline_retried_total", ()] == 2


def test_two_workers_in_one_process_have_separate_metrics() -> None:
    first, second = Metrics(), Metrics()
    first.retried.inc()
    assert samples(second.registry)["sortline_retried_total", ()] == 0


def test_impossible_times_are_in_no_histogram(settings: Settings, client: redis.Redis) -> None:
    """With a capture an hour in the future, the result would seem to come before its image."""
    kit.submit(settings, frame(deadline_ms=60_000))
    kit.forge(client, kit.submit(settings, frame())[0], captured_at=time.time() + 3600, deadline_at=time.time() + 3601)
    found = samples(kit.run_burst(settings).registry)
    assert found["sortline_jobs_total", (("line", "l1"), ("outcome", "rejected"))] == 1
    assert found["sortline_capture_to_result_seconds_count", (("line", "l1"),)] == 1
    assert found["sortline_deadline_margin_seconds_count", (("line", "l1"),)] == 1
