"""Writes the files of `classify`: all answers as CSV, and the first images with their answers as a page or one PNG.

In: the answers of `evaluation.classify`. Out: one file per function.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_store.bundle.preprocessing import ImageDecoder
from model_store.evaluation.classify import Classified
from model_store.reports.data import THUMBNAIL_PX
from model_store.reports.image_grids import GridCell, draw_cells
from model_store.reports.page import jpeg_uri, render
from shared.csv_files import CsvWriter
from shared.errors import BadImage
from shared.images.arrays import Pixels
from shared.images.decoding import decode_image
from shared.output_files import unwritable_error
from shared.regular_files import read_start

# About as many images as a phone can show. The CSV has all answers.
MAX_SHOWN = 500
# Names and forms are those of `results --csv`.
_COLUMNS = ("file", "labels", "probability", "lane", "uncertain", "error")
# Color is not the only sign: the verdict is also written below the image.
_SURE, _UNCERTAIN, _ERROR = "#009E73", "#56B4E9", "#D55E00"
_BLANK = np.full((THUMBNAIL_PX, THUMBNAIL_PX, 3), 200, np.uint8)


def write_csv(path: Path, answers: Sequence[Classified]) -> None:
    """Write one line for each file; several labels are joined by `|`, as in labels.csv.

    Raises:
        BadSetting: the file can't be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = CsvWriter(file, _COLUMNS)
            for answer in answers:
                writer.write(_csv_row(answer))
    except OSError as error:
        raise unwritable_error(path, error, flag="--out") from error


def write_html(path: Path, answers: Sequence[Classified], *, model: str, decoder: ImageDecoder) -> None:
    """Write one self-contained page with the first MAX_SHOWN images.

    Args:
        model: NAME@VERSION (ENGINE).
        decoder: the model's decoder, whose limits apply to the thumbnails too.

    Raises:
        BadSetting: the file can't be written.
    """
    cells = _cells(answers[:MAX_SHOWN], decoder)
    page = render("classify.html", title=_title(answers, model), cells=[_html_values(cell) for cell in cells])
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise unwritable_error(path, error, flag="--html") from error


def write_grid(path: Path, answers: Sequence[Classified], *, model: str, decoder: ImageDecoder) -> None:
    """Write one PNG with the first MAX_SHOWN images; the arguments are those of `write_html`.

    Raises:
        BadSetting: the file can't be written.
    """
    try:
        draw_cells(path, _cells(answers[:MAX_SHOWN], decoder), title=_title(answers, model))
    except OSError as error:
        raise unwritable_error(path, error, flag="--grid") from error


def _csv_row(answer: Classified) -> dict[str, str]:
    decision = answer.decision
    if decision is None:
        return {"file": answer.name, "error": answer.error or ""}
    return {
        "file": answer.name,
        "labels": "|".join(label for label, _ in decision.labels),
        "probability": "|".join(str(probability) for _, probability in decision.labels),
        "lane": decision.lane,
        "uncertain": "true" if decision.uncertain else "false",
    }


def _title(answers: Sequence[Classified], model: str) -> str:
    shown = f"the first {MAX_SHOWN:,} of " if len(answers) > MAX_SHOWN else ""
    return f"{model}: {shown}{len(answers):,} images"


def _cells(answers: Sequence[Classified], decoder: ImageDecoder) -> list[GridCell]:
    return [_cell(answer, decoder) for answer in answers]


def _cell(answer: Classified, decoder: ImageDecoder) -> GridCell:
    decision = answer.decision
    if decision is None:
        return GridCell(answer.name, _BLANK, (answer.error or "",), "not classified", _ERROR)
    labels = " + ".join(f"{label} {probability:.2f}" for label, probability in decision.labels)
    word, color = ("uncertain", _UNCERTAIN) if decision.uncertain else ("sure", _SURE)
    return GridCell(answer.name, _thumbnail(answer.path, decoder), (labels, f"lane: {decision.lane}"), word, color)


def _thumbnail(path: Path, decoder: ImageDecoder) -> Pixels:
    """The whole image in its own proportions, for people to look at; the model itself may see only a region."""
    try:
        return decode_image(
            read_start(path, max_bytes=decoder.max_bytes),
            size_px=THUMBNAIL_PX,
            fit="pad",
            max_bytes=decoder.max_bytes,
            max_px=decoder.max_px,
            max_decode_bytes=decoder.max_decode_bytes,
            max_decode_s=decoder.max_decode_s,
            sample_bits=decoder.sample_bits,
        )
    except (OSError, BadImage):  # the file was deleted or replaced in the meantime
        return _BLANK


def _html_values(cell: GridCell) -> dict[str, Any]:
    return {
        "name": cell.name,
        "uri": jpeg_uri(cell.pixels),
        "texts": cell.texts,
        "verdict": cell.verdict,
        "mark": {_SURE: "right", _UNCERTAIN: "uncertain-right", _ERROR: "wrong"}[cell.color],
    }
