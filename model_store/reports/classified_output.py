"""Writes the files of `classify`: all answers as CSV, the first images with their answers as a page, some as one PNG.

In: the answers of `evaluation.classify`. Out: one file per function.
"""

from __future__ import annotations

import os
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
from shared.printable import printable
from shared.regular_files import read_start

# About as many images as a phone can show. The CSV has all answers.
MAX_SHOWN = 500
# Six rows of six, which a screen shows at once. More would be a picture that nobody can read.
MAX_DRAWN = 36
# Names and forms are those of `results --csv`.
_COLUMNS = ("file", "labels", "probability", "lane", "uncertain", "error")
# Color is not the only sign: the verdict is also written below the image. The true labels are not known, so no color
# stands for right or wrong.
_SURE, _UNCERTAIN, _ERROR = "#8a8a8a", "#56B4E9", "#D55E00"
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
    cells = [_cell(answer, decoder, name=answer.name) for answer in answers[:MAX_SHOWN]]
    shown = f"the first {MAX_SHOWN:,} of " if len(answers) > MAX_SHOWN else ""
    title = f"{model}: {shown}{len(answers):,} images"
    page = render("classify.html", title=title, cells=[_html_values(cell) for cell in cells])
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise unwritable_error(path, error, flag="--html") from error


def write_grid(path: Path, answers: Sequence[Classified], *, model: str, decoder: ImageDecoder) -> None:
    """Write one PNG with all images, or MAX_DRAWN of them, evenly spread; the arguments are those of `write_html`.

    An image is named as it lies in the folder that all of them have in common. A lane that all of them go to is named
    in the title only.

    Raises:
        BadSetting: the file can't be written.
    """
    rows = np.linspace(0, len(answers) - 1, min(len(answers), MAX_DRAWN)).round().astype(int)
    drawn = [answers[row] for row in rows]
    lanes = {answer.decision.lane for answer in answers if answer.decision is not None}
    cells = [
        _cell(answer, decoder, name=name, lane=len(lanes) > 1)
        for answer, name in zip(drawn, _names_in_common_folder(drawn), strict=True)
    ]
    try:
        draw_cells(path, cells, title=_grid_title(answers, model, lanes=lanes))
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


def _grid_title(answers: Sequence[Classified], model: str, *, lanes: set[str]) -> str:
    count = f"{len(answers):,} {'image' if len(answers) == 1 else 'images'}"
    shown = f"{MAX_DRAWN} of {count} shown, evenly spread" if len(answers) > MAX_DRAWN else count
    lane = f"; lane: {next(iter(lanes))}" if len(lanes) == 1 else ""
    return f"Predictions of {model}: {shown}{lane}"


def _names_in_common_folder(answers: Sequence[Classified]) -> list[str]:
    """The paths from the folder that all of them lead into; whole paths if there is none, e.g. for `/a` and `b`."""
    try:
        folder = os.path.commonpath([answer.path.parent for answer in answers])
        return [printable(answer.path.relative_to(folder)) for answer in answers]
    except ValueError:
        return [answer.name for answer in answers]


def _cell(answer: Classified, decoder: ImageDecoder, *, name: str, lane: bool = True) -> GridCell:
    """An image with its labels and, if wanted, its lane."""
    decision = answer.decision
    if decision is None:
        return GridCell(name, _BLANK, (answer.error or "",), "not classified", _ERROR)
    labels = " + ".join(f"{label} {probability:.2f}" for label, probability in decision.labels)
    texts = (labels, f"lane: {decision.lane}") if lane else (labels,)
    word, color = ("uncertain", _UNCERTAIN) if decision.uncertain else ("", _SURE)
    return GridCell(name, _thumbnail(answer.path, decoder), texts, word, color)


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
        "mark": {_SURE: "plain", _UNCERTAIN: "uncertain-right", _ERROR: "wrong"}[cell.color],
    }
