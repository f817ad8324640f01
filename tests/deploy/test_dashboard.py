"""The Grafana dashboard: its layout, and every expression against a real Prometheus that watched a real worker."""

from __future__ import annotations

import itertools
import math
import re
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from producer.metrics import SubmitOutcome
from tests.deploy.conftest import LiveWorker, Watched
from tests.deploy.manifests import (
    DEPLOY,
    GRAFANA_VARIABLES,
    Query,
    dashboard_queries,
    read_compose,
    read_dashboard,
    read_yaml,
)
from tests.kit import PROJECT

QUERIES = list(dashboard_queries())
PANELS = read_dashboard()["panels"]
COLUMNS = 24
_METRIC = re.compile(r"\bsortline_\w+")
_RECORDED = re.compile(r"\bsortline:[\w:]+")
_SELECTOR = re.compile(r"\b(sortline_\w+)\{([^}]*)\}")


def named(query: Query) -> str:
    return f"{query.panel}/{query.ref}"


def by_panel(title: str) -> list[Query]:
    found = [query for query in QUERIES if query.panel == title]
    assert found, f"no panel {title!r}"
    return found


def values(watched: Watched, query: Query) -> list[float]:
    return [float(sample["value"][1]) for sample in watched.prometheus.query(query.promql)]


@pytest.mark.e2e
@pytest.mark.parametrize("query", QUERIES, ids=named)
def test_expression_answers_after_sorting(watched: Watched, query: Query) -> None:
    samples = watched.prometheus.query(query.promql)
    assert samples, f"{query.promql} is empty"
    assert any(math.isfinite(float(sample["value"][1])) for sample in samples), f"{query.promql}: {samples}"
    for sample in samples:
        assert query.legend_labels <= set(sample["metric"]), f"legend {query.legend!r} of {sample['metric']}"


@pytest.mark.parametrize("query", QUERIES, ids=named)
def test_no_variable_is_unknown(query: Query) -> None:
    assert "$" not in query.promql, f"{query.promql}: only {sorted(GRAFANA_VARIABLES)} are defined"


@pytest.mark.e2e
def test_every_metric_is_a_workers_or_a_cameras(live_worker: LiveWorker, live_camera: str) -> None:
    families = []
    for address in (live_worker.address, live_camera):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            families += text_string_to_metric_families(answer.read().decode())
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    there = {family.name + suffix for family in families for suffix in suffixes.get(family.type, [])}
    used = {name for query in QUERIES for name in _METRIC.findall(query.expression)}
    assert used
    assert used <= there, f"not in /metrics: {sorted(used - there)}"


@pytest.mark.e2e
def test_stats_agree_with_the_results(watched: Watched) -> None:
    """What the panels say is what `wait_for` saw: most in time, some too late, none failed, one worker."""
    outcomes = watched.outcomes
    assert outcomes["sorted"] and outcomes["rejected"] and outcomes["late"] + outcomes["expired"]
    shown = {
        sample["metric"]["outcome"]: float(sample["value"][1])
        for sample in watched.prometheus.query("sum by (outcome) (sortline_jobs_total)")
    }
    assert {outcome: count for outcome, count in shown.items() if count} == dict(outcomes)
    (in_deadline,) = values(watched, by_panel("In deadline")[0])
    assert 0.5 < in_deadline < 1
    assert values(watched, by_panel("Workers")[0]) == [1]
    assert values(watched, by_panel("Failed")[0]) == [0]
    assert values(watched, by_panel("Redis")[0]) == [1]
    assert values(watched, by_panel("Images waiting")[0]) == [0]


@pytest.mark.e2e
def test_deadline_margin_shows_who_was_late(watched: Watched) -> None:
    """Only line-1 had bottles past their deadline: its worst hundredth is below zero, line-2's is not."""
    (worst,) = [query for query in by_panel("Deadline margin") if "0.01" in query.expression]
    margins = {sample["metric"]["line"]: float(sample["value"][1]) for sample in watched.prometheus.query(worst.promql)}
    assert margins["line-1"] < 0 < margins["line-2"]


@pytest.mark.e2e
def test_model_panels_tell_what_happened(watched: Watched) -> None:
    """One canary stopped and another on, one version swapped in and one refused; and the alerts about that."""
    events = {
        (sample["metric"].get("result"), sample["metric"].get("reason")): float(sample["value"][1]) > 0
        for panel in ("Model swaps", "Canary comparisons")
        for query in by_panel(panel)
        for sample in watched.prometheus.query(query.promql)
    }
    assert events["swapped", None] and events["refused", None] and events[None, "disagreement"]
    assert not events[None, "engine"]
    assert values(watched, by_panel("Canary disagreement")[0]) == [1]
    (canary,) = watched.prometheus.query(by_panel("Canary")[0].promql)
    assert canary["metric"] == {"name": "tiny", "version": "2", "share": "1", "mode": "shadow"}
    assert canary["value"][1] == "1"
    firing = {sample["metric"]["alertname"] for sample in watched.prometheus.query(by_panel("Alerts")[0].promql)}
    assert firing == {"SortlineModelRefused", "SortlineCanaryStopped"}


@pytest.mark.e2e
def test_the_panel_of_cameras_has_every_outcome_from_the_start(watched: Watched) -> None:
    (query,) = by_panel("Frames of cameras")
    shown = {sample["metric"]["outcome"]: sample["value"][1] for sample in watched.prometheus.query(query.promql)}
    assert shown == {outcome.value: "0" for outcome in SubmitOutcome}


@pytest.mark.e2e
def test_shares_of_classes_are_shares(watched: Watched) -> None:
    shares = values(watched, by_panel("Class mix")[0])
    assert sum(shares) >= 0.99, "every classified bottle has at least one label"
    assert all(0 <= share <= 1 for share in shares)


@pytest.mark.e2e
@pytest.mark.parametrize(("variable", "expected"), [("line", {"line-1", "line-2"}), ("instance", None)])
def test_variables_list_what_there_is(
    watched: Watched, live_worker: LiveWorker, variable: str, expected: set[str] | None
) -> None:
    (definition,) = [item for item in read_dashboard()["templating"]["list"] if item["name"] == variable]
    match = re.fullmatch(r"label_values\((\w+), (\w+)\)", definition["query"]["query"])
    assert match is not None
    found = watched.prometheus.label_values(match[2], metric=match[1])
    assert set(found) == (expected or {live_worker.address})


@pytest.mark.e2e
def test_variables_reach_every_selector(watched: Watched) -> None:
    """Chosen lines and workers narrow every number, also below a fraction line."""
    selectors = [found for query in QUERIES for found in _SELECTOR.findall(query.expression)]
    assert len(selectors) == sum(len(_METRIC.findall(query.expression)) for query in QUERIES)
    for metric, matchers in selectors:
        # $instance lists the workers.
        assert ('instance=~"$instance"' in matchers) == (metric != "sortline_submitted_total"), metric
        has_lines = any("line" in sample["metric"] for sample in watched.prometheus.query(metric))
        assert ('line=~"$line"' in matchers) == has_lines, metric


def test_panels_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= COLUMNS, panel["title"]
    for one, other in itertools.combinations(PANELS, 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), f"{one['title']} covers {other['title']}"


@pytest.mark.parametrize("panel", [panel for panel in PANELS if panel["type"] != "row"], ids=lambda p: str(p["title"]))
def test_panel_explains_itself(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    refs = [target["refId"] for target in panel["targets"]]
    assert refs and len(set(refs)) == len(refs)
    for source in [panel["datasource"], *(target["datasource"] for target in panel["targets"])]:
        assert source == {"type": "prometheus", "uid": "${datasource}"}


def test_operations_see_what_they_asked_for() -> None:
    """A panel that is taken away is missed here, not in the plant."""
    shown = {
        name for query in QUERIES for name in [*_METRIC.findall(query.expression), *_RECORDED.findall(query.expression)]
    }
    assert {
        "sortline:queue_load_ratio:max",
        "sortline:queue_drain_seconds:max",
        "sortline:queue_capacity_images_per_second:max",
        "sortline_jobs_total",
        "sortline_labels_total",
        "sortline_lanes_total",
        "sortline_submitted_total",
        "sortline_stage_seconds_bucket",
        "sortline_capture_to_result_seconds_bucket",
        "sortline_deadline_margin_seconds_bucket",
        "sortline_batch_size_sum",
        "sortline_batches_total",
        "sortline_queue_depth",
        "sortline_queue_oldest_seconds",
        "sortline_redis_memory_used_bytes",
        "sortline_redis_memory_max_bytes",
        "sortline_inflight_jobs",
        "sortline_model_info",
        "sortline_model_load_seconds",
        "sortline_model_swaps_total",
        "sortline_store_errors_total",
        "sortline_canary_info",
        "sortline_canary_compared_total",
        "sortline_canary_disagreed_total",
        "sortline_canary_disagreement_ratio",
        "sortline_canary_skipped_total",
        "sortline_canary_stopped_total",
        "sortline_redelivered_total",
        "sortline_engine_seconds_total",
        "sortline_result_cache_total",
    } <= shown


def test_provisioned_source_is_the_dashboards() -> None:
    (source,) = read_yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    (variable,) = [item for item in read_dashboard()["templating"]["list"] if item["name"] == "datasource"]
    assert variable["current"]["value"] == source["uid"]
    assert variable["query"] == source["type"]
    scrape = read_yaml("prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape, "Grafana's $__rate_interval would be wrong"


def test_provisioned_folders_are_mounted() -> None:
    grafana = read_compose()["services"]["grafana"]
    mounts = {target: source for source, target, _ in (volume.split(":") for volume in grafana["volumes"])}
    (provider,) = read_yaml("grafana/provisioning/dashboards/sortline.yaml")["providers"]
    dashboards = DEPLOY / mounts[provider["options"]["path"]]
    assert (dashboards / "sortline.json").is_file()
    assert (DEPLOY / mounts["/etc/grafana/provisioning"] / "datasources").is_dir()
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/sortline.json"
    assert dashboards.resolve().is_relative_to(PROJECT)


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )
