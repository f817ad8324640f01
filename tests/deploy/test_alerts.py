"""The alerts: when each fires and when not, by promtool on made-up series; that the names in them exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import yaml

from producer.metrics import SUBMITTED
from tests.deploy.manifests import DEPLOY, read_compose, read_yaml
from tests.kit import PROJECT, needed_tool
from tests.test_documented import anchors_of
from worker.observe.metrics import Metrics
from worker.observe.queue_gauges import QueueGauges

RECORDED = [rule for group in read_yaml("prometheus/rules.yml")["groups"] for rule in group["rules"]]
RULES = [rule for group in read_yaml("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


class Case(NamedTuple):
    """Series with a sample each minute, and when the alert fires and when not. `labels` are the alert's own."""

    alert: str
    series: dict[str, str]
    firing_at: str
    quiet_at: str
    labels: dict[str, str]


CASES = [
    Case(
        "SortlineModelRefused",
        {'sortline_model_swaps_total{result="refused", instance="a"}': "0 0 1x70"},
        firing_at="5m",
        quiet_at="70m",
        labels={"instance": "a"},
    ),
    Case(
        "SortlineCanaryStopped",
        {'sortline_canary_stopped_total{reason="engine", instance="a"}': "0 0 1x70"},
        firing_at="5m",
        quiet_at="70m",
        labels={"reason": "engine"},
    ),
    Case(
        "SortlineStoreUnreadable",
        {'sortline_store_errors_total{instance="a"}': "0x10 1+1x20"},
        firing_at="20m",
        quiet_at="12m",
        labels={"instance": "a"},
    ),
    Case(
        "SortlineVersionsDiffer",
        {
            'sortline_model_info{name="bottles", version="1", engine="litert", instance="a"}': "1x40",
            'sortline_model_info{name="bottles", version="2", engine="litert", instance="b"}': "1x40",
        },
        firing_at="15m",
        quiet_at="5m",
        labels={"name": "bottles"},
    ),
    Case(
        "SortlineFramesDropped",
        {'sortline_submitted_total{line="line-1", outcome="refused_full", instance="cam"}': "0x5 2x30"},
        firing_at="7m",
        quiet_at="15m",
        labels={"line": "line-1", "outcome": "refused_full"},
    ),
    Case(
        "SortlineNobodySorts",
        {
            'sortline_queue_load_ratio{queue="live", instance="a"}': "0.5x10 100x10 0.5x20",
            'sortline_queue_capacity_images_per_second{queue="live", instance="a"}': "200x10 0x10 200x20",
        },
        firing_at="16m",
        quiet_at="25m",
        labels={"queue": "live"},
    ),
    Case(
        "SortlineOverload",
        {
            'sortline_queue_load_ratio{queue="live", instance="a"}': "0.9x10 1.2x20",
            'sortline_queue_load_ratio{queue="bulk", instance="a"}': "0.2x40",
            'sortline_queue_capacity_images_per_second{queue="live", instance="a"}': "200x40",
            'sortline_queue_capacity_images_per_second{queue="bulk", instance="a"}': "0x40",
        },
        firing_at="16m",
        quiet_at="12m",
        labels={"queue": "live"},
    ),
    Case(
        "SortlineServerMemory",
        {
            'sortline_redis_memory_used_bytes{instance="a"}': "800x10 900x20",
            'sortline_redis_memory_max_bytes{instance="a"}': "1000x40",
        },
        firing_at="20m",
        quiet_at="12m",
        labels={},
    ),
]
# What goes on every day, and must wake nobody.
USUAL = {
    'sortline_model_swaps_total{result="swapped", instance="a"}': "0 0 1 2 3x70",
    'sortline_model_swaps_total{result="refused", instance="a"}': "0x70",
    'sortline_canary_stopped_total{reason="disagreement", instance="a"}': "0x70",
    'sortline_store_errors_total{instance="a"}': "0x10 1x60",
    'sortline_model_info{name="bottles", version="1", engine="litert", instance="a"}': "1x70",
    'sortline_model_info{name="bottles", version="1", engine="litert-fp32", instance="b"}': "1x70",
    'sortline_model_info{name="caps", version="7", engine="litert", instance="c"}': "1x70",
    'sortline_submitted_total{line="line-1", outcome="accepted", instance="cam"}': "0+100x70",
    'sortline_submitted_total{line="line-1", outcome="refused_full", instance="cam"}': "0x70",
    'sortline_submitted_total{line="line-1", outcome="rejected", instance="cam"}': "0+1x70",
    # Two workers show the same queue: the sum of their figures is above 1.
    'sortline_queue_load_ratio{queue="live", instance="a"}': "0.6x30 1.1 0.8x40",
    'sortline_queue_load_ratio{queue="live", instance="b"}': "0.6x30 1.1 0.8x40",
    'sortline_queue_capacity_images_per_second{queue="live", instance="a"}': "200x70",
    'sortline_queue_capacity_images_per_second{queue="live", instance="b"}': "200x70",
    # The last worker of a queue that nobody uses is suspended.
    'sortline_queue_load_ratio{queue="bulk", instance="a"}': "0x70",
    'sortline_queue_drain_seconds{queue="bulk", instance="a"}': "0x70",
    'sortline_queue_capacity_images_per_second{queue="bulk", instance="a"}': "0x70",
    'sortline_redis_memory_used_bytes{instance="a"}': "800x70",
    'sortline_redis_memory_max_bytes{instance="a"}': "1000x70",
    'sortline_redis_memory_used_bytes{instance="no-maxmemory"}': "900x70",
    'sortline_redis_memory_max_bytes{instance="no-maxmemory"}': "0x70",
}


def test_every_alert_has_a_case() -> None:
    assert sorted(rule["alert"] for rule in RULES) == sorted(case.alert for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_fires_when_it_should_and_not_before_or_after(case: Case, tmp_path: Path) -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == case.alert]
    value = len(case.series)  # of SortlineVersionsDiffer's summary, the only one with a value
    annotations = {name: text.replace("{{ $value }}", str(value)) for name, text in rule["annotations"].items()}
    for label, word in case.labels.items():
        annotations = {name: text.replace(f"{{{{ $labels.{label} }}}}", word) for name, text in annotations.items()}
    fired = {"exp_labels": case.labels | rule["labels"], "exp_annotations": annotations}
    _check(
        case.series,
        [
            {"eval_time": case.firing_at, "alertname": case.alert, "exp_alerts": [fired]},
            {"eval_time": case.quiet_at, "alertname": case.alert, "exp_alerts": []},
        ],
        folder=tmp_path,
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_is_quiet_on_a_usual_day(rule: dict[str, Any], tmp_path: Path) -> None:
    """Promotions, one look at the store that failed, two engines, two models, a server without maxmemory."""
    quiet = [{"eval_time": f"{minutes}m", "alertname": rule["alert"], "exp_alerts": []} for minutes in range(0, 70, 2)]
    _check(USUAL, quiet, folder=tmp_path)


def test_a_queues_figures_are_recorded_once_however_many_workers_show_them(tmp_path: Path) -> None:
    series = {
        f'sortline_queue_{name}{{queue="{queue}", instance="{instance}"}}': f"{value}x5"
        for name in ("load_ratio", "drain_seconds", "capacity_images_per_second")
        for instance in ("a", "b", "c")
        for queue, value in (("live", 3), ("bulk", 2))
    }
    expected = [_recorded(rule["record"], live=3, bulk=2) for rule in RECORDED]
    assert len(expected) == 4
    _check(series, [], folder=tmp_path, recorded=expected)


def test_a_suspended_queue_is_not_scaled(tmp_path: Path) -> None:
    """Its load ratio is 100. Another queue that has workers is scaled all the same."""
    series = {
        'sortline_queue_load_ratio{queue="live", instance="a"}': "100x5",
        'sortline_queue_capacity_images_per_second{queue="live", instance="a"}': "0x5",
        'sortline_queue_load_ratio{queue="bulk", instance="b"}': "2x5",
        'sortline_queue_capacity_images_per_second{queue="bulk", instance="b"}': "10x5",
    }
    expected = [_recorded("sortline:queue_load_ratio:scaling", bulk=2)]
    _check(series, [], folder=tmp_path, recorded=expected)


def _recorded(name: str, **values: float) -> dict[str, Any]:
    """The value of a recorded figure that is expected of each queue after four minutes; of the others none."""
    samples = [{"labels": f'{name}{{queue="{queue}"}}', "value": value} for queue, value in values.items()]
    return {"expr": name, "eval_time": "4m", "exp_samples": samples}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_names_metrics_that_exist_and_a_runbook(rule: dict[str, Any], client: redis.Redis) -> None:
    gauges = QueueGauges(client, queues=["live"])
    families = [*Metrics().registry.collect(), *gauges.collect(), *SUBMITTED.collect()]
    known = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    expression = rule["expr"]
    for recorded in RECORDED:
        expression = expression.replace(recorded["record"], recorded["expr"])
    assert "sortline:" not in expression, "a figure that nothing records"
    used = set(re.findall(r"\bsortline_\w+", expression))
    assert used and used <= known
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in anchors_of(PROJECT / page)
    assert f"`{rule['alert']}`" in (DEPLOY / "README.md").read_text()


def test_the_scrape_configuration_of_the_docs_is_valid(tmp_path: Path) -> None:
    """The example for a Prometheus of one's own, in docs/metrics.md."""
    (example,) = re.findall(r"^```yaml\n(.*?)^```", (PROJECT / "docs/metrics.md").read_text(), re.DOTALL | re.MULTILINE)
    promtool = needed_tool("promtool", package="prometheus")
    (tmp_path / "prometheus.yml").write_text(example)
    for name in ("rules.yml", "alerts.yml"):
        (tmp_path / name).write_bytes((DEPLOY / "prometheus" / name).read_bytes())
    done = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {job["job_name"] for job in yaml.safe_load(example)["scrape_configs"]}
    assert jobs == {"sortline-worker", "sortline-camera"}


def test_prometheus_is_given_them() -> None:
    files = read_yaml("prometheus/prometheus.yml")["rule_files"]
    assert files == ["rules.yml", "alerts.yml"]
    for file in files:
        assert (DEPLOY / "prometheus" / file).is_file()
        assert f"./prometheus/{file}:/etc/prometheus/{file}:ro" in read_compose()["services"]["prometheus"]["volumes"]


def _check(
    series: dict[str, str],
    expected: list[dict[str, Any]],
    *,
    folder: Path,
    recorded: Sequence[dict[str, Any]] = (),
) -> None:
    promtool = needed_tool("promtool", package="prometheus")
    given = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": given, "alert_rule_test": expected, "promql_expr_test": list(recorded)}
    file = folder / "test.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(DEPLOY / "prometheus" / name) for name in ("rules.yml", "alerts.yml")],
                "evaluation_interval": "15s",
                "tests": [test],
            }
        )
    )
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
