"""Results as lines for people, and as rows of CSV."""

from __future__ import annotations

import io

import pytest

from producer.result_table import COLUMNS, CsvTable, ResultTable, csv_row
from shared.schemas import Label, ModelRef, Outcome, SortResult, Timings
from tests.producer.kit import sort_result


def table_lines(result: SortResult, *, width: int | None) -> list[str]:
    """The lines of one result in a table of its own."""
    return list(ResultTable(width=width).lines(result))


LONG = sort_result("j1").model_copy(
    update={"frame_id": "photos/2026/bottle_000001.jpg", "line": "line-number-12", "lane": "disfigured-bottles"}
)


def test_a_row_has_every_value_of_the_result() -> None:
    """Fails when SortResult gets a field that has no column."""
    result = sort_result("j1").model_copy(
        update={
            "model": ModelRef(name="bottles", version=3, engine="litert"),
            "timings_ms": Timings(queue=1.0, decode=2.0, batch=3.0, infer=4.0, total=250.0),
            "uncertain": True,
        }
    )
    row = csv_row(result)
    assert set(row) == set(COLUMNS)
    assert set(SortResult.model_fields) - set(row) == {"timings_ms"}
    assert (row["model"], row["queue_ms"], row["total_ms"]) == ("bottles@3 (litert)", 1.0, 250.0)
    assert csv_row(sort_result("j1"))["uncertain"] == "false"


def test_the_header_of_csv_is_written_before_the_first_result() -> None:
    """A program that reads it from a pipe needs the header even if no result comes."""
    file = io.TextIOWrapper(written := io.BytesIO())
    CsvTable(file)
    assert written.getvalue().decode() == ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize("result", [sort_result("j1"), LONG, sort_result("j1", Outcome.LATE)])
def test_lines_fit_80_columns(result: SortResult) -> None:
    table = ResultTable(width=80)
    lines = list(table.lines(result))
    assert max(map(len, [table.header(), *lines])) <= 80
    assert lines[-1].strip().endswith("no cap 0.88, pigmented 0.75"), "labels are never cut"


@pytest.mark.parametrize("width", [80, 120, None])
def test_the_header_is_above_its_columns_beside_results_with_long_names(width: int | None) -> None:
    table = ResultTable(width=width)
    table.widen([LONG])
    (line,) = table.lines(sort_result("j1").model_copy(update={"labels": ()}))
    for title, cell in (("camera", "line-1/camera-1"), ("outcome", "sorted"), ("lane", "reject")):
        assert line.index(cell) == table.header().index(title)
    for title, cell in (("frame", "7"), ("margin", "-50 ms")):
        assert line.index(cell) + len(cell) == table.header().index(title) + len(title)
    assert next(table.lines(LONG)).index(LONG.outcome) == table.header().index("outcome")


def test_a_wide_terminal_shows_long_names_in_full() -> None:
    (line,) = table_lines(LONG, width=140)
    assert "photos/2026/bottle_000001.jpg" in line


def test_a_terminal_shows_the_end_of_a_long_frame_and_a_pipe_all_of_it() -> None:
    first, _ = table_lines(LONG, width=80)
    assert "..01.jpg" in first
    (whole,) = table_lines(LONG, width=None)
    assert "photos/2026/bottle_000001.jpg" in whole
    assert "disfigured-bottles" in whole


def test_an_error_is_shown_in_full_on_a_line_of_its_own() -> None:
    error = "not an accepted image but text: send JPEG, PNG, WEBP, BMP, TIFF. " * 2
    result = sort_result("j1", Outcome.REJECTED).model_copy(update={"error": error, "deadline_margin_ms": None})
    _, second = table_lines(result, width=80)
    assert second.strip() == error.strip()


def test_an_uncertain_result_is_marked() -> None:
    sure = sort_result("j1").model_copy(update={"labels": (Label(label="good", probability=0.5),), "uncertain": True})
    (line,) = table_lines(sure, width=None)
    assert line.endswith("good 0.50 (uncertain)")


def test_text_from_other_programs_does_not_control_the_terminal() -> None:
    forged = "x\n10:00:00 line-1/camera-1 \x1b[31m"
    result = sort_result("j1", Outcome.REJECTED).model_copy(update={"error": forged, "frame_id": forged})
    (line,) = table_lines(result, width=None)
    assert line.count(r"x\n10:00:00 line-1/camera-1 \x1b[31m") == 2
