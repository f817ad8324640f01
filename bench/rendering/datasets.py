"""Writes shifted pairs of datasets: `<pair>/learn/` and `<pair>/judge/`, each with its frames and a `labels.csv`.

The same seed gives the same bytes with the same versions of numpy and Pillow. A frame depends on the seed, its pair,
its part and its number, and not on how many others there are.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.rendering.domains import PAIRS, Domain
from bench.rendering.frames import draw_frame
from bench.rendering.random_choices import Choices, digest
from bench.rendering.scenes import DEFECTS, pick_defects
from shared.csv_files import CsvWriter
from shared.errors import BadSetting
from shared.output_files import check_output_folder
from shared.tables import plain_console, print_table

PARTS = ("learn", "judge")
GOOD = "good"


def chosen_pairs(text: str) -> list[str]:
    """The pairs that a comma-separated text names, each once.

    Raises:
        BadSetting: there is no such pair.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in PAIRS:
            raise BadSetting(f"--pairs: no pair {name!r}: choose from {', '.join(PAIRS)}.")
    return names


def check_out(out: Path) -> None:
    """Make the folder. It must be empty: frames of an earlier run among the new ones would be taken for theirs.

    Raises:
        BadSetting: it has files in it, or can't be written.
    """
    check_output_folder(out, flag="OUT")
    if os.listdir(out):
        raise BadSetting(f"OUT {out} is not empty. Name a new folder, or empty this one.")


def render_pairs(
    out: Path, pairs: Sequence[str], *, learn: int, judge: int, seed: int, on_progress: Callable[[str], None]
) -> dict[str, Any]:
    """Write the pairs' folders into `out`, which `check_out` has made.

    Returns:
        {"seed": …, "pairs": {pair: {"learn" | "judge": {"folder", "frames", "labels": {label: frames}}}}}, for JSON.
    """
    counts = {"learn": learn, "judge": judge}
    return {
        "seed": seed,
        "pairs": {
            pair: {
                part: _render(out / pair / part, f"{pair}/{part}", counts[part], seed=seed, on_progress=on_progress)
                for part in PARTS
            }
            for pair in pairs
        },
    }


def print_rendered(rendered: dict[str, Any]) -> None:
    """A table of what `render_pairs` has returned."""
    rows = [
        [part["folder"], str(part["frames"]), *(str(count) for count in part["labels"].values())]
        for parts in rendered["pairs"].values()
        for part in parts.values()
    ]
    print_table(plain_console(), ("folder", "frames", *DEFECTS, GOOD), rows, title="rendered", text=(0,))


def frame_choices(name: str, index: int, *, seed: int) -> Choices:
    """The random choices of one frame of a part, e.g. of `belt/learn`."""
    return Choices([seed, digest(name), index])


def _render(folder: Path, name: str, count: int, *, seed: int, on_progress: Callable[[str], None]) -> dict[str, Any]:
    """Write one part. Its table comes last, so that a folder with a table is complete."""
    pair, part = name.split("/")
    domain: Domain = getattr(PAIRS[pair], part)
    folder.mkdir(parents=True)
    rows, totals = [], Counter[str]()
    for index in range(count):
        choices = frame_choices(name, index, seed=seed)
        defects = pick_defects(choices.stream("defects"))
        labels = [defect for defect in DEFECTS if defect in defects] or [GOOD]
        file = f"{pair}_{part}_{index:04d}.jpg"
        (folder / file).write_bytes(draw_frame(domain, defects, choices))
        rows.append({"filename": file, "labels": "|".join(labels)})
        totals.update(labels)
        on_progress(f"{name}: {index + 1} of {count} frames")
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as table:
        writer = CsvWriter(table, ("filename", "labels"), line_end="\n")
        for row in rows:
            writer.write(row)
    return {"folder": str(folder), "frames": count, "labels": {label: totals[label] for label in (*DEFECTS, GOOD)}}
