"""Every table that a command prints is at most 80 columns wide if the output is no terminal, and cuts no value off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.output.tables import print_tables
from model_store.commands.models import print_models
from model_store.commands.output import print_metrics
from model_store.commands.recipe_tables import print_recipes
from model_store.commands.show import print_version
from model_store.datasets.audit import DatasetReport
from model_store.training.comparison_metrics import METRICS
from model_store.training.recipes import RECIPES
from producer import display
from producer.camera_summary import CameraSummary
from producer.demo import live_table, summary
from producer.demo.session import DemoSummary
from producer.demo.statistics import ResultStatistics
from producer.upload import Row
from shared.commands import config
from shared.tables import plain_console, print_facts, print_table
from tests.bench.output.test_plot import MACHINE, RECORDS
from tests.model_store.reports.report_data import report_data
from torture.report import print_reports
from torture.run import Report

WIDTH = 80
CLASSES = ("disfigured", "good", "no cap", "no strip", "pigmented", "label of another bottle")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def busy(value: Any) -> Any:
    """The record of a fast machine: its rates and times have more digits."""
    if isinstance(value, list):
        return [busy(item) for item in value]
    if not isinstance(value, dict):
        return value
    factor = 61.7 if {"median", "p50"} & value.keys() else 1
    return {key: busy(item * factor if isinstance(item, float) else item) for key, item in value.items()}


def torture_report() -> None:
    report = Report(
        campaign="overload",
        seconds=61.3,
        accepted=123_456,
        refused=9_876,
        results=123_456,
        lost_by_server=0,
        attempts={1: 123_000, 2: 400, 3: 56},
        outcomes={"sorted": 100_000, "late": 20_000, "expired": 3_000, "rejected": 456},
        figures={"images per second that were accepted while the queue was full": 1234.5},
        breaches=(),
    )
    print_reports([report], seed=4_000_000_000)


def models() -> None:
    row = {
        "name": "bottles-of-line-1",
        "version": 104,
        "current": False,
        "canary": {"shadow": True, "share": 0.25},
        "mode": "single",
        "classes": list(CLASSES),
        "created_at": 1_700_000_000.0,
        "accuracy": 0.9876,
        "macro_f1": 0.9765,
        "signed_by": ["0123456789abcdef"],
        "error": None,
    }
    print_models([row, {**row, "version": 103}])


def version() -> None:
    manifest = report_data(CLASSES, "multi").manifest
    print_version(manifest, Path("/models/b/000001"), report=None, is_current=True)


def evaluation() -> None:
    print_metrics(dict(report_data(CLASSES, "multi").manifest.metrics), title="validation")


def recipes() -> None:
    scores: dict[str, Any] = {f"{metric}_mean": 0.987 for metric in METRICS} | {"seconds_mean": 12_345.6}
    scores["per_class"] = {name: {"f1_mean": 0.987} for name in (*CLASSES, "a seventh class")}
    compared = {name: {"title": recipe.title, **recipe.choices, **scores} for name, recipe in RECIPES.items()}
    found = {"images": 12_345, "unreadable": [], "excluded": [], "seeds": [1, 2], "recipes": compared}
    test = {"path": "another-belt", "images": 12_345, "unreadable": []}
    print_recipes({"single": {**found, "test": None}, "multi": {**found, "test": test}})


def dataset() -> None:
    nothing: dict[str, Any] = dict.fromkeys(("unreadable", "unlabelled", "duplicates", "groups", "crowded"), ())
    nothing |= {"conflicts": (), "excluded": (), "held_out_copies": {}, "per_label_set": {}, "per_camera": {}}
    nothing["images_by_sample_bits"] = {}
    counts = dict.fromkeys((*CLASSES, "a class whose name is a whole sentence about a bottle " * 2), 12_345)
    shown = DatasetReport(
        path="bottles", mode="multi", complete=True, images=74_070, held_out=0, per_class=counts, imbalance=1, **nothing
    )
    shown.show(plain_console())


def camera() -> None:
    counts = dict.fromkeys(("accepted", "refused_full", "rejected", "unsent", "too_old", "missed"), 1_234_567)
    display.show_camera(
        CameraSummary(
            line="l" * 30, camera="c" * 30, frames=9_999_999, stalled_s=1e6, seconds=1e7, accepted_hz=999.9, **counts
        ),
        as_json=False,
    )


def upload() -> None:
    display.show_upload([Row(f"{number}.jpg", "a" * 32, "sorted") for number in range(2_000)], as_json=False)


def demo() -> None:
    counts = dict.fromkeys(CLASSES, 1_234)
    shown = DemoSummary(
        **{name: 1_234 for name in ("submitted", "results", "classified", "deadline_ms")},
        **{name: 0 for name in ("missing", "doubled")},
        **{name: 123.4 for name in ("images_per_s", "p50_ms", "p99_ms", "exact_match")},
        outcomes=counts,
        labels=counts,
        model="demo@1 on litert-fp32",
        contact_sheet="demo-out/contact-sheet.png",
        logs="demo-out",
        interrupted=False,
    )
    summary.show(shown)


def demo_live() -> None:
    statistics = ResultStatistics(lambda result: frozenset())
    for counter in (statistics.labels, statistics.lanes, statistics.by_line):
        counter.update(dict.fromkeys(CLASSES, 12_345))
    Console().print(live_table.table(statistics, depth=1_234, now=0.0, seconds_left=30.0))


PRINTERS: list[Callable[[], None]] = [
    lambda: print_tables(MACHINE, RECORDS),
    lambda: print_tables(MACHINE, busy(RECORDS)),
    torture_report,
    models,
    version,
    evaluation,
    recipes,
    dataset,
    camera,
    upload,
    demo,
    demo_live,
    lambda: config(as_json=False),
]


@pytest.mark.parametrize("show", PRINTERS, ids=lambda show: show.__name__)
def test_a_table_fits_80_columns(show: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    show()
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert [line for line in lines if len(line) > WIDTH] == []
    assert not any("…" in line for line in lines)


def lines_of(capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    return (line.rstrip() for line in capsys.readouterr().out.splitlines())


def test_headings_are_wrapped_only_if_the_table_is_too_wide(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(plain_console(), ("bottle", "p50 of all lines"), [("no [cap]", "1,234.5")], title="times")
    assert list(lines_of(capsys)) == ["times", "bottle    p50 of all lines", "no [cap]           1,234.5"]
    print_table(plain_console(), ("bottle", *["p50 of all lines"] * 6), [("no [cap]", *["1,234.5"] * 6)])
    shown = list(lines_of(capsys))
    assert shown[-1].split() == ["no", "[cap]", *["1,234.5"] * 6]
    assert all(len(line) <= WIDTH for line in shown)


def test_long_text_is_wrapped_and_figures_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300
    print_table(plain_console(), ("name", "images"), [(name, "1,234,567")])
    shown = capsys.readouterr().out
    assert shown.count("x") == 300
    assert "1,234,567" in shown


def test_a_wide_terminal_is_used(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_facts(plain_console(), [("value", "x" * 150)], title="facts")
    assert max(map(len, capsys.readouterr().out.splitlines())) > 150
