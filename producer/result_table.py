"""Formats results as rows of CSV, for `results --csv` and `upload --out`, and as rows of a table for people."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TextIO

from shared.log_format import escape_controls
from shared.schemas import SortResult

# The names are those of SortResult. Labels and timings take several columns.
COLUMNS = (
    *("job_id", "line", "camera", "frame_id", "encoder_count", "outcome", "labels", "probability", "lane", "uncertain"),
    *("model", "captured_at", "finished_at", "queue_ms", "decode_ms", "batch_ms", "infer_ms", "total_ms"),
    *("deadline_margin_ms", "attempt", "worker", "error"),
)
MARGIN_EXPLAINED = "margin: the time between the result and its deadline; negative if it came too late."

# A line of the table has 80 characters; 17 of them are left for the labels.
_WIDTHS = {"time UTC": 8, "camera": 15, "frame": 8, "outcome": 8, "lane": 10, "margin": 8}
_LAST = "labels"
_INDENT = " " * 9
_CUT = ".."


def csv_row(result: SortResult) -> dict[str, object]:
    """Return the result's values by the names of COLUMNS. Lists are joined by `|`; None is an empty cell."""
    model, timings = result.model, result.timings_ms.model_dump()
    values = result.model_dump(exclude={"labels", "model", "timings_ms"})
    return values | {
        "outcome": result.outcome.value,
        "labels": "|".join(label.label for label in result.labels),
        "probability": "|".join(f"{label.probability:.4f}" for label in result.labels),
        "uncertain": "true" if result.uncertain else "false",
        "model": f"{model.name}@{model.version} ({model.engine})" if model else "",
        **{f"{stage}_ms": duration_ms for stage, duration_ms in timings.items()},
    }


class CsvTable:
    """Writes results as CSV, and flushes after each."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        self._writer.writeheader()

    def show(self, result: SortResult) -> None:
        """Write one result."""
        self._writer.writerow(csv_row(result))
        self._file.flush()


def header() -> str:
    """Return the first line of the table."""
    return " ".join([*(_fit(name, width, is_limited=False, name=name) for name, width in _WIDTHS.items()), _LAST])


def table_lines(result: SortResult, *, width: int | None) -> Iterator[str]:
    """Yield the lines of one result. Cells are cut to fit `width`, but not labels and errors; None means no limit."""
    margin = "" if result.deadline_margin_ms is None else f"{result.deadline_margin_ms:+.0f} ms"
    cells = {
        "time UTC": f"{datetime.fromtimestamp(result.finished_at, UTC):%H:%M:%S}",
        "camera": f"{result.line}/{result.camera}",
        "frame": "" if result.frame_id is None else str(result.frame_id),
        "outcome": result.outcome.value,
        "lane": result.lane,
        "margin": margin,
    }
    labels = ", ".join(f"{label.label} {label.probability:.2f}" for label in result.labels)
    last = escape_controls(result.error or f"{labels}{' (uncertain)' if result.uncertain else ''}")
    line = " ".join(_fit(cells[name], size, is_limited=width is not None, name=name) for name, size in _WIDTHS.items())
    if width is None or len(line) + 1 + len(last) <= width:
        yield f"{line} {last}".rstrip()
    else:
        yield line.rstrip()
        yield f"{_INDENT}{last}"


def _fit(text: str, size: int, *, is_limited: bool, name: str) -> str:
    """Pad to `size`, or cut if limited. Of a frame, which may be a path, the end is kept: it says more."""
    text = escape_controls(text)
    if is_limited and len(text) > size:
        text = f"{_CUT}{text[len(_CUT) - size :]}" if name == "frame" else f"{text[: size - len(_CUT)]}{_CUT}"
    return f"{text:>{size}}" if name in ("frame", "margin") else f"{text:<{size}}"
