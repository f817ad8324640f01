"""The demo's arithmetic and pictures; the whole demo runs in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from producer.demo import live_table
from producer.demo.contact_sheet import CELL_PX, Cell, write_sheet
from producer.demo.statistics import ResultStatistics
from shared.schemas import Label, ModelRef, Outcome, SortResult
from tests.kit import BOTTLES


def _result(number: int, *, outcome: Outcome = Outcome.SORTED, labels: tuple[str, ...] = ("good",)) -> SortResult:
    return SortResult(
        job_id=f"job-{number}",
        line="line-1",
        camera="cam-1",
        frame_id=number,
        captured_at=1000.0 + number,
        finished_at=1000.0 + number + 0.010 * (number + 1),
        outcome=outcome,
        labels=tuple(Label(label=label, probability=0.9) for label in labels),
        lane="good",
        model=ModelRef(name="bottles", version=3, engine="litert"),
        worker="w",
    )


def _statistics(results: list[SortResult]) -> ResultStatistics:
    statistics = ResultStatistics(lambda result: frozenset({"good"}) if result.frame_id != 2 else frozenset({"no cap"}))
    for result in results:
        statistics.add(result)
    return statistics


def test_counts_rates_and_percentiles() -> None:
    statistics = _statistics([_result(number) for number in range(5)])
    assert (statistics.count, statistics.doubled, statistics.classified, statistics.exact) == (5, 0, 5, 4)
    assert statistics.percentiles_ms([0, 50, 100]) == pytest.approx([10.0, 30.0, 50.0])
    assert statistics.rate() == pytest.approx(4 / (1004.050 - 1000.010))
    assert statistics.rate_now(1004.050) == pytest.approx(5 / 5.0)
    assert statistics.rate_now(1008.0) == pytest.approx(2 / 5.0)
    assert statistics.model == "bottles@3 on litert"


def test_a_second_result_of_a_job_shows() -> None:
    statistics = _statistics([_result(1), _result(1)])
    assert (statistics.count, statistics.doubled, len(statistics.seen)) == (2, 1, 1)


def test_what_was_not_classified_is_not_called_wrong() -> None:
    statistics = _statistics([_result(1, outcome=Outcome.EXPIRED, labels=()), _result(3)])
    assert (statistics.count, statistics.classified, statistics.exact) == (2, 1, 1)


def test_statistics_without_results_have_values_too() -> None:
    statistics = _statistics([])
    assert (statistics.rate(), statistics.percentiles_ms([50])) == (0.0, [0.0])
    assert "0 results" in live_table.line(statistics, depth=0, now=0.0)


def test_the_board_shows_outcomes_lanes_and_the_queue() -> None:
    console = Console(width=100, record=True)
    console.print(live_table.table(_statistics([_result(1), _result(2)]), depth=17, now=1003.0, seconds_left=4.0))
    text = console.export_text()
    for shown in ("17", "sorted 2", "good 2", "line-1 2", "50% of 2", "4 s left", "bottles@3"):
        assert shown in text


def test_the_contact_sheet_has_a_framed_cell_for_each_bottle(tmp_path: Path) -> None:
    data = sorted(BOTTLES.glob("*.jpg"))[0].read_bytes()
    right = Cell(data=data, labels=(("good", 0.9),), truth=frozenset({"good"}), lane="good")
    wrong = Cell(data=data, labels=(("good", 0.9),), truth=frozenset({"no cap"}), lane="good")
    write_sheet([right, wrong], tmp_path / "sheet.png", title="two")
    with Image.open(tmp_path / "sheet.png") as sheet:
        frames = [sheet.getpixel((cell * CELL_PX + 3, 60)) for cell in (0, 1)]
        center = sheet.getpixel((CELL_PX // 2, 120))
    assert frames == [(0x1A, 0x7F, 0x37), (0xC0, 0x39, 0x2B)]
    assert center != (255, 255, 255)
