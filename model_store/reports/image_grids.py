"""Thumbnails of validation images and of the worst mistakes, with true labels and answers, for a report.

In: validation predictions and their scores. Out: Thumbnails, and image files drawn from them or from other GridCells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model_store.evaluation.metrics import ScoredPredictions
from model_store.reports.data import THUMBNAIL_PX, ValidationPredictions
from shared.arrays import Floats
from shared.drawn_text import drawable, fitted
from shared.images.arrays import Pixels

MAX_SAMPLES = 60
MAX_MISTAKES = 24

Verdict = Literal["right", "wrong", "uncertain, right", "uncertain, wrong"]

_COLUMNS = 6
_MARGIN_PX, _BORDER_PX, _LINE_PX, _FONT_PX = 10, 4, 16, 12
_TITLE_LINE_PX, _TITLE_FONT_PX = 24, 16
_SIDE_PX = THUMBNAIL_PX + 2 * _BORDER_PX
_CELL_PX = THUMBNAIL_PX + 40
_MAX_LINES = 4
# Color is not the only sign: the verdict is also written below the image.
_COLORS: dict[Verdict, str] = {
    "right": "#009E73",
    "wrong": "#D55E00",
    "uncertain, right": "#56B4E9",
    "uncertain, wrong": "#CC79A7",
}
_INK, _PALE_INK, _PAPER = "#1a1a1a", "#555555", "#ffffff"


@dataclass(frozen=True)
class Thumbnail:
    """One image as a report shows it. `answer` holds each label that was given, with its probability."""

    name: str
    pixels: Pixels
    truth: tuple[str, ...]
    answer: tuple[tuple[str, float], ...]
    verdict: Verdict
    error_confidence: float  # of the worst mistake, 0..1; 0 if there is none


def make_thumbnail(validation: ValidationPredictions, row: int) -> Thumbnail:
    """The thumbnail of one image."""
    scored = validation.scored
    scores = dict(zip(scored.classes, scored.probabilities[row].tolist(), strict=True))
    answer = sorted(((name, scores[name]) for name in scored.labels(row)), key=lambda pair: -pair[1])
    return Thumbnail(
        name=validation.names[row],
        pixels=validation.thumbnails[row],
        truth=validation.labels[row],
        answer=tuple(answer),
        verdict=_verdict(correct=bool(scored.correct[row]), uncertain=bool(scored.uncertain[row])),
        error_confidence=float(error_confidence(scored)[row]),
    )


def sample_thumbnails(validation: ValidationPredictions) -> list[Thumbnail]:
    """All validation images, or MAX_SAMPLES of them, evenly spread over the label sets, in the dataset's order."""
    count = len(validation.names)
    by_labels = sorted(range(count), key=lambda row: (validation.labels[row], row))
    chosen = {by_labels[index] for index in np.linspace(0, count - 1, min(count, MAX_SAMPLES)).round().astype(int)}
    return [make_thumbnail(validation, row) for row in sorted(chosen)]


def mistake_thumbnails(validation: ValidationPredictions) -> list[Thumbnail]:
    """Up to MAX_MISTAKES images that were answered wrongly, the most confident mistake first."""
    confidence = error_confidence(validation.scored)
    wrong = np.flatnonzero(~validation.scored.correct)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MAX_MISTAKES]
    return [make_thumbnail(validation, int(row)) for row in worst]


def error_confidence(scored: ScoredPredictions) -> Floats:
    """The confidence of each image's worst mistake, [N]: p of a false label, 1 - p of a missed one, else 0."""
    false = scored.decided & ~scored.truth & scored.label_mask
    missed = scored.truth & ~scored.decided
    confidence = np.where(false, scored.probabilities, np.where(missed, 1 - scored.probabilities, 0))
    if scored.mode == "single":  # a missed class and the false label are the same mistake
        confidence = np.where(false, scored.probabilities, 0)
    return np.asarray(confidence.max(axis=1), np.float32)


def draw_grid(path: Path, thumbnails: Sequence[Thumbnail], *, title: str, empty: str) -> None:
    """Draw all thumbnails with name, true labels, answer and verdict into one PNG; without any, write `empty`."""
    draw_cells(path, [_cell_of(one) for one in thumbnails], title=title if thumbnails else f"{title}: {empty}")


@dataclass(frozen=True)
class GridCell:
    """One image of a grid, with a frame of this color.

    Below the image are its name, cut to one line, then each of the `texts`, wrapped, and, in the frame's color, the
    `verdict` if there is one.
    """

    name: str
    pixels: Pixels
    texts: tuple[str, ...]
    verdict: str
    color: str


def draw_cells(path: Path, cells: Sequence[GridCell], *, title: str) -> None:
    """Draw all cells into one PNG, row by row."""
    font = _font(_FONT_PX)
    lines = [_lines(cell, font) for cell in cells]
    starts = range(0, len(cells), _COLUMNS)
    heights_px = [
        _SIDE_PX + max(map(len, lines[start : start + _COLUMNS])) * _LINE_PX + 2 * _MARGIN_PX for start in starts
    ]
    top_px = 2 * _MARGIN_PX + _TITLE_LINE_PX
    width_px = _MARGIN_PX + _COLUMNS * (_CELL_PX + _MARGIN_PX)
    sheet = Image.new("RGB", (width_px, top_px + sum(heights_px)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    title_font = _font(_TITLE_FONT_PX)
    shown = fitted(drawable(title), font=title_font, width_px=width_px - 2 * _MARGIN_PX)
    pen.text((_MARGIN_PX, _MARGIN_PX), shown, fill=_INK, font=title_font)
    for start, height_px in zip(starts, heights_px, strict=True):
        for column, index in enumerate(range(start, min(start + _COLUMNS, len(cells)))):
            left_px = _MARGIN_PX + column * (_CELL_PX + _MARGIN_PX)
            _draw_cell(sheet, cells[index], lines=lines[index], at=(left_px, top_px), font=font)
        top_px += height_px
    sheet.save(path, "PNG")


def _cell_of(one: Thumbnail) -> GridCell:
    answer = [f"{name} {probability:.2f}" for name, probability in one.answer]
    texts = f"true: {' + '.join(one.truth)}", f"answer: {' + '.join(answer)}"
    return GridCell(one.name, one.pixels, texts, one.verdict, _COLORS[one.verdict])


def _lines(cell: GridCell, font: ImageFont.FreeTypeFont) -> list[tuple[str, str]]:
    """The lines of text below an image, each with its color."""
    return [
        (fitted(drawable(cell.name), font=font, width_px=_CELL_PX), _PALE_INK),
        *((line, _INK) for text in cell.texts for line in _wrapped(drawable(text), font)),
        *([(cell.verdict, cell.color)] if cell.verdict else []),
    ]


def _draw_cell(
    sheet: Image.Image,
    cell: GridCell,
    *,
    lines: Sequence[tuple[str, str]],
    at: tuple[int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    left_px, top_px = at
    pen = ImageDraw.Draw(sheet)
    frame = (left_px, top_px, left_px + _SIDE_PX - 1, top_px + _SIDE_PX - 1)
    pen.rectangle(frame, fill=cell.color)
    picture = Image.fromarray(cell.pixels)
    if picture.size != (THUMBNAIL_PX, THUMBNAIL_PX):
        picture = picture.resize((THUMBNAIL_PX, THUMBNAIL_PX))
    sheet.paste(picture, (left_px + _BORDER_PX, top_px + _BORDER_PX))
    for number, (text, color) in enumerate(lines):
        pen.text((left_px, top_px + _SIDE_PX + number * _LINE_PX), text, fill=color, font=font)


def _wrapped(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """A drawable text wrapped to at most _MAX_LINES lines; the last line is cut if it does not fit."""
    lines: list[str] = []
    words = text.split(" ")
    while words:
        fits = (count for count in range(len(words), 0, -1) if font.getlength(" ".join(words[:count])) <= _CELL_PX)
        taken = len(words) if len(lines) == _MAX_LINES - 1 else next(fits, 1)
        lines.append(fitted(" ".join(words[:taken]), font=font, width_px=_CELL_PX))
        words = words[taken:]
    return lines


def _verdict(*, correct: bool, uncertain: bool) -> Verdict:
    if uncertain:
        return "uncertain, right" if correct else "uncertain, wrong"
    return "right" if correct else "wrong"


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and covers most alphabets."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size_px)
