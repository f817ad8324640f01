"""Formats results as rows of CSV, for `results --csv` and `upload --out`, and as rows of a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TextIO

from shared.csv_files import CsvWriter
from shared.printable import one_line
from shared.schemas import SortResult

# The names are those of SortResult. Labels and timings take several columns.
COLUMNS = (
    *("job_id", "line", "camera", "frame_id", "encoder_count", "outcome", "labels", "probability", "lane", "uncertain"),
    *("model", "captured_at", "finished_at", "queue_ms", "decode_ms", "batch_ms", "infer_ms", "total_ms"),
    *("deadline_margin_ms", "attempt", "worker", "error"),
)
MARGIN_EXPLAINED = "margin: the time between the result and its deadline; negative: too late."

# With these widths a line has 80 characters, and 17 of them are left for the labels.
_WIDTHS = {"time UTC": 8, "camera": 15, "frame": 8, "outcome": 8, "lane": 10, "margin": 8}
_LAST = "labels"
_LAST_WIDTH = 17
_CUT_FIRST = ("frame", "lane", "camera")  # if a line is too long
_RIGHT_ALIGNED = ("frame", "margin")
_INDENT = " " * 9
_CUT = ".."
_MAX_CELL_CHARACTERS = 300  # more than our own workers write; a forged result must not make each later line as wide


def csv_row(result: SortResult) -> dict[str, object]:
    """Return the result's values by the names of COLUMNS, for a CsvWriter. Lists are joined by `|`."""
    model, timings = result.model, result.timings_ms.model_dump()
    values = result.model_dump(exclude={"labels", "model", "timings_ms"})
    return values | {
        "outcome": result.outcome.value,
        "labels": "|".join(label.label for label in result.labels),
        "probability": "|".join(str(label.probability) for label in result.labels),
        "uncertain": "true" if result.uncertain else "false",
        "model": f"{model.name}@{model.version} ({model.engine})" if model else "",
        **{f"{stage}_ms": duration_ms for stage, duration_ms in timings.items()},
    }


class CsvTable:
    """Writes results as CSV: the header at once, and each result at once."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._writer = CsvWriter(file, COLUMNS, line_end="\n")
        file.flush()

    def show(self, result: SortResult) -> None:
        """Write one result."""
        self._writer.write(csv_row(result))
        self._file.flush()


class ResultTable:
    """Formats results as the lines of a table. A column becomes wider when a longer value comes, and stays so."""

    def __init__(self, *, width: int | None) -> None:
        """Cells are cut so that lines fit `width`, but not labels and errors; None means no limit."""
        self._width = width
        self._widths = dict(_WIDTHS)

    def widen(self, results: Iterable[SortResult]) -> None:
        """Make the columns wide enough for these results, as far as a line has room for that."""
        for result in results:
            for name, cell in _cells(result).items():
                self._widths[name] = max(self._widths[name], len(cell))
        if self._width is not None:
            for name in _CUT_FIRST:
                excess = sum(self._widths.values()) + len(self._widths) + _LAST_WIDTH - self._width
                self._widths[name] = max(_WIDTHS[name], self._widths[name] - max(0, excess))

    def header(self) -> str:
        """Return the titles of the columns."""
        return f"{self._row({name: name for name in _WIDTHS})} {_LAST}"

    def lines(self, result: SortResult) -> Iterator[str]:
        """Yield one result: one line, or two if labels or error don't fit in one."""
        self.widen([result])
        labels = ", ".join(f"{label.label} {label.probability:.2f}" for label in result.labels)
        last = one_line(result.error or f"{labels}{' (uncertain)' if result.uncertain else ''}")
        row = self._row(_cells(result))
        if self._width is None or len(row) + 1 + len(last) <= self._width:
            yield f"{row} {last}".rstrip()
        else:
            yield row.rstrip()
            yield f"{_INDENT}{last}"

    def _row(self, cells: dict[str, str]) -> str:
        return " ".join(_fit(cells[name], size, name=name) for name, size in self._widths.items())


def _cells(result: SortResult) -> dict[str, str]:
    cells = {
        "time UTC": f"{datetime.fromtimestamp(result.finished_at, UTC):%H:%M:%S}",
        "camera": f"{result.line}/{result.camera}",
        "frame": "" if result.frame_id is None else str(result.frame_id),
        "outcome": result.outcome.value,
        "lane": result.lane,
        "margin": "" if result.deadline_margin_ms is None else f"{result.deadline_margin_ms:+.0f} ms",
    }
    return {name: one_line(cell, max_characters=_MAX_CELL_CHARACTERS) for name, cell in cells.items()}


def _fit(text: str, size: int, *, name: str) -> str:
    """Pad or cut to `size`. Of a frame, which may be a path, the end is kept: it says more."""
    if len(text) > size:
        text = f"{_CUT}{text[len(_CUT) - size :]}" if name == "frame" else f"{text[: size - len(_CUT)]}{_CUT}"
    return f"{text:>{size}}" if name in _RIGHT_ALIGNED else f"{text:<{size}}"
