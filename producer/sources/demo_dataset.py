"""Reads the bottle frames that ship with Sortline (producer/bottles): labels, held-out frames, bounding boxes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

BOTTLES = Path(__file__).parents[1] / "bottles"


@dataclass(frozen=True, slots=True)
class Box:
    """Where the bottle is in its frame, in pixels; right and bottom exclusive.

    Drawn by hand, with a few pixels to spare.
    """

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Bottle:
    """One held-out frame: its JPEG, and the labels that apply (only `good` if no other label does)."""

    path: Path
    truth: frozenset[str]
    box: Box


def held_out_bottles(folder: Path = BOTTLES) -> list[Bottle]:
    """The frames that training does not use, in name order."""
    labels = _read_labels(folder)
    boxes = _read_boxes(folder)
    return [Bottle(path=folder / name, truth=labels[name], box=boxes[name]) for name in held_out_names(folder)]


def held_out_names(folder: Path = BOTTLES) -> list[str]:
    """The file names in held_out.txt: one per line; `#` begins a comment."""
    lines = (folder / "held_out.txt").read_text(encoding="utf-8").splitlines()
    return sorted(name for line in lines if (name := line.partition("#")[0].strip()))


def _read_labels(folder: Path) -> dict[str, frozenset[str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return {row["filename"]: frozenset(row["labels"].split("|")) for row in csv.DictReader(file)}


def _read_boxes(folder: Path) -> dict[str, Box]:
    with (folder / "boxes.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["filename"]: Box(*(int(row[side]) for side in ("left", "top", "right", "bottom")))
            for row in csv.DictReader(file)
        }
