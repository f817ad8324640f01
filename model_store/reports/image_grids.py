"""The held-out images of a report with truth and answer, and the worst mistakes: what to show, and as one PNG.

In: held-out images and their judged answers. Out: Shots, and pictures drawn from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model_store.evaluation.metrics import Judged
from model_store.reports.data import THUMBNAIL_PX, ValidationPredictions

MAX_SAMPLES = 60
MAX_MISTAKES = 24

Verdict = Literal["right", "wrong", "unsure, right", "unsure, wrong"]

_COLUMNS = 6
_MARGIN_PX, _BORDER_PX, _LINE_PX, _FONT_PX = 10, 4, 16, 12
_SIDE_PX = THUMBNAIL_PX + 2 * _BORDER_PX
_CELL_PX = THUMBNAIL_PX + 40
_MAX_LINES = 3
# Told apart without colour too: the verdict is written beside it.
_COLOURS: dict[Verdict, str] = {
    "right": "#009E73",
    "wrong": "#D55E00",
    "unsure, right": "#56B4E9",
    "unsure, wrong": "#CC79A7",
}
_INK, _PALE_INK, _PAPER = "#1a1a1a", "#555555", "#ffffff"


@dataclass(frozen=True)
class Shot:
    """One image as a report shows it. `said` is each label that was given, with its probability."""

    name: str
    thumbnail: NDArray[np.uint8]
    truth: tuple[str, ...]
    said: tuple[tuple[str, float], ...]
    verdict: Verdict
    mistake: float  # how sure the worst wrong answer was, 0..1; 0 where all is right


def shot(validation: ValidationPredictions, judged: Judged, row: int) -> Shot:
    """One image of a report."""
    scores = dict(zip(judged.classes, judged.probabilities[row].tolist(), strict=True))
    said = sorted(((name, scores[name]) for name in judged.labels(row)), key=lambda pair: -pair[1])
    return Shot(
        name=validation.names[row],
        thumbnail=validation.thumbnails[row],
        truth=validation.labels[row],
        said=tuple(said),
        verdict=_verdict(right=bool(judged.right[row]), uncertain=bool(judged.uncertain[row])),
        mistake=float(wrongness(judged)[row]),
    )


def samples(validation: ValidationPredictions, judged: Judged) -> list[Shot]:
    """All held-out images, or MAX_SAMPLES of them, evenly spread over the label sets, in the dataset's order."""
    count = len(validation.names)
    by_labels = sorted(range(count), key=lambda row: (validation.labels[row], row))
    chosen = {by_labels[place] for place in np.linspace(0, count - 1, min(count, MAX_SAMPLES)).round().astype(int)}
    return [shot(validation, judged, row) for row in sorted(chosen)]


def mistakes(validation: ValidationPredictions, judged: Judged) -> list[Shot]:
    """Up to MAX_MISTAKES images that were answered wrongly, the surest mistake first."""
    sureness = wrongness(judged)
    wrong = np.flatnonzero(~judged.right)
    worst = wrong[np.argsort(-sureness[wrong], kind="stable")][:MAX_MISTAKES]
    return [shot(validation, judged, int(row)) for row in worst]


def wrongness(judged: Judged) -> NDArray[np.float32]:
    """How sure the worst wrong answer of each image was, [N]: p of a label given, 1 - p of one missed; else 0."""
    false = judged.decided & ~judged.truth & judged.known
    missed = judged.truth & ~judged.decided
    sureness = np.where(false, judged.probabilities, np.where(missed, 1 - judged.probabilities, 0))
    if judged.mode == "single":  # there the missed class is but the other side of the one given
        sureness = np.where(false, judged.probabilities, 0)
    return np.asarray(sureness.max(axis=1), np.float32)


def draw_grid(path: Path, shots: Sequence[Shot], *, title: str, empty: str) -> None:
    """One PNG of all shots with name, truth, answer and verdict; `empty` is written when there are none."""
    font = _font(_FONT_PX)
    texts = [_texts(one, font) for one in shots]
    starts = range(0, len(shots), _COLUMNS)
    heights_px = [
        _SIDE_PX + max(map(len, texts[start : start + _COLUMNS])) * _LINE_PX + 2 * _MARGIN_PX for start in starts
    ]
    top_px = 2 * _MARGIN_PX + _LINE_PX
    width_px = _MARGIN_PX + _COLUMNS * (_CELL_PX + _MARGIN_PX)
    sheet = Image.new("RGB", (width_px, top_px + sum(heights_px)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    heading = title if shots else f"{title}: {empty}"
    pen.text((_MARGIN_PX, _MARGIN_PX), _fitted(heading, font, width_px - 2 * _MARGIN_PX), fill=_INK, font=font)
    for start, height_px in zip(starts, heights_px, strict=True):
        for column, place in enumerate(range(start, min(start + _COLUMNS, len(shots)))):
            left_px = _MARGIN_PX + column * (_CELL_PX + _MARGIN_PX)
            _draw_shot(sheet, pen, shots[place], texts[place], at=(left_px, top_px), font=font)
        top_px += height_px
    sheet.save(path)


def _texts(one: Shot, font: ImageFont.FreeTypeFont) -> list[tuple[str, str]]:
    """The lines under a picture, each with its colour."""
    said = [f"{name} {probability:.2f}" for name, probability in one.said]
    return [
        (_fitted(one.name, font, _CELL_PX), _PALE_INK),
        *((line, _INK) for line in _wrapped(f"true: {' + '.join(one.truth)}", font, _CELL_PX)),
        *((line, _INK) for line in _wrapped(f"said: {' + '.join(said)}", font, _CELL_PX)),
        (one.verdict, _COLOURS[one.verdict]),
    ]


def _draw_shot(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    one: Shot,
    texts: Sequence[tuple[str, str]],
    *,
    at: tuple[int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    left_px, top_px = at
    frame = (left_px, top_px, left_px + _SIDE_PX - 1, top_px + _SIDE_PX - 1)
    pen.rectangle(frame, fill=_COLOURS[one.verdict])
    picture = Image.fromarray(one.thumbnail)
    if picture.size != (THUMBNAIL_PX, THUMBNAIL_PX):
        picture = picture.resize((THUMBNAIL_PX, THUMBNAIL_PX))
    sheet.paste(picture, (left_px + _BORDER_PX, top_px + _BORDER_PX))
    for number, (text, colour) in enumerate(texts):
        pen.text((left_px, top_px + _SIDE_PX + number * _LINE_PX), text, fill=colour, font=font)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> list[str]:
    """The text on as many lines as it needs, _MAX_LINES at most; what does not fit is cut."""
    lines: list[str] = []
    words = text.split(" ")
    while words:
        fits = (count for count in range(len(words), 0, -1) if font.getlength(" ".join(words[:count])) <= width_px)
        taken = len(words) if len(lines) == _MAX_LINES - 1 else next(fits, 1)
        lines.append(_fitted(" ".join(words[:taken]), font, width_px))
        words = words[taken:]
    return lines


def _fitted(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> str:
    """The text, its end replaced by an ellipsis where it is too wide."""
    if font.getlength(text) <= width_px:
        return text
    length = len(text)
    while length and font.getlength(f"{text[:length]}…") > width_px:
        length -= 1
    return f"{text[:length]}…"


def _verdict(*, right: bool, uncertain: bool) -> Verdict:
    if uncertain:
        return "unsure, right" if right else "unsure, wrong"
    return "right" if right else "wrong"


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: it has the letters of most alphabets."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size_px)
