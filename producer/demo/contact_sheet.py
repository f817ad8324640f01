"""Draws the contact sheet, a PNG file of sorted bottles with the model's labels and the true labels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from PIL import Image, ImageDraw, ImageFont

from producer.sources.simulator import SimulatedSource
from shared.drawn_text import drawable, fitted
from shared.schemas import SortResult

SHEET_CELLS = 30
COLUMNS = 6
CELL_PX = 240
PICTURE_PX = 190
TEXT_PX = 80
_MARGIN_PX = 6
_RIGHT, _WRONG, _INK, _PAPER = "#1a7f37", "#c0392b", "#1f2328", "#ffffff"


@dataclass(frozen=True, slots=True)
class Cell:
    """One bottle: its JPEG, the model's labels with their probabilities, the true labels, and the lane."""

    data: bytes
    labels: tuple[tuple[str, float], ...]
    truth: frozenset[str]
    lane: str


def chosen_cells(results: Sequence[SortResult], sources: Mapping[str, SimulatedSource]) -> list[Cell]:
    """The bottles of the latest results, each once, the latest last, at most `SHEET_CELLS`.

    Every line shows the same held-out bottles, again and again. `sources` are the lines' cameras.
    """
    cells: dict[str, Cell] = {}
    for result in reversed(results):
        frame = sources[result.line].frame(cast(int, result.frame_id))
        if frame.source_name not in cells:
            labels = tuple((label.label, label.probability) for label in result.labels)
            cells[frame.source_name] = Cell(data=frame.data, labels=labels, truth=frame.truth, lane=result.lane)
        if len(cells) == SHEET_CELLS:
            break
    return list(reversed(cells.values()))


def write_sheet(cells: Sequence[Cell], path: Path, *, title: str) -> None:
    """Draw the cells in rows and write the PNG."""
    rows = -(-len(cells) // COLUMNS)
    head_px = 40
    sheet = Image.new("RGB", (COLUMNS * CELL_PX, head_px + rows * (PICTURE_PX + TEXT_PX)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, 10), title, fill=_INK, font=ImageFont.load_default(18))
    for index, cell in enumerate(cells):
        row, column = divmod(index, COLUMNS)
        _draw_cell(sheet, draw, cell, x=column * CELL_PX, y=head_px + row * (PICTURE_PX + TEXT_PX))
    sheet.save(path)


def _draw_cell(sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, *, x: int, y: int) -> None:
    image = Image.open(io.BytesIO(cell.data))
    image.thumbnail((CELL_PX - 2 * _MARGIN_PX, PICTURE_PX - 2 * _MARGIN_PX))
    sheet.paste(image, (x + (CELL_PX - image.width) // 2, y + (PICTURE_PX - image.height) // 2))
    right = {label for label, _ in cell.labels} == cell.truth
    color = _RIGHT if right else _WRONG
    draw.rectangle((x + 2, y + 2, x + CELL_PX - 3, y + PICTURE_PX - 3), outline=color, width=3)
    font = ImageFont.load_default(13)
    answer = [f"{label} {probability:.0%}" for label, probability in cell.labels]
    truth = "right" if right else f"truth: {', '.join(sorted(cell.truth))}"
    texts = (", ".join(answer[:2]), ", ".join(answer[2:]), f"lane {cell.lane}", truth)
    for number, text in enumerate(text for text in texts if text):
        position = (x + _MARGIN_PX, y + PICTURE_PX + number * 18)
        shown = fitted(drawable(text), font=font, width_px=CELL_PX - 2 * _MARGIN_PX)
        draw.text(position, shown, fill=color if text is truth else _INK, font=font)
