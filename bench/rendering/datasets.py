"""Writes shifted pairs of datasets: `<pair>/learn/` and `<pair>/judge/`, each with its frames and a `labels.csv`.

Or one dataset of all their belts, lamps, bottles and cameras, to tune a network on (`render_mixed`).

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
from model_store.bundle.policy import GOOD
from shared.csv_files import CsvWriter
from shared.errors import BadSetting
from shared.output_files import check_output_folder
from shared.tables import plain_console, print_table

PARTS = ("learn", "judge")


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
                part: _render(
                    out / pair / part,
                    f"{pair}/{part}",
                    (_domain(pair, part),),
                    count=counts[part],
                    seed=seed,
                    on_progress=on_progress,
                )
                for part in PARTS
            }
            for pair in pairs
        },
    }


def render_mixed(
    out: Path, pairs: Sequence[str], *, count: int, seed: int, on_progress: Callable[[str], None]
) -> dict[str, Any]:
    """Write one dataset into `out`, which `check_out` has made; its frames show the pairs' domains in turn.

    None of them is a frame of a pair, with whatever seed.

    Returns:
        {"seed": …, "mixed": {"folder", "frames", "labels": {label: frames}}}, for JSON.
    """
    domains = [_domain(pair, part) for pair in pairs for part in PARTS]
    return {"seed": seed, "mixed": _render(out, "mixed", domains, count=count, seed=seed, on_progress=on_progress)}


def print_rendered(rendered: dict[str, Any]) -> None:
    """A table of what `render_pairs` or `render_mixed` has returned."""
    datasets = [part for parts in rendered.get("pairs", {}).values() for part in parts.values()]
    datasets += [rendered["mixed"]] if "mixed" in rendered else []
    rows = [
        [part["folder"], str(part["frames"]), *(str(count) for count in part["labels"].values())] for part in datasets
    ]
    print_table(plain_console(), ("folder", "frames", *DEFECTS, GOOD), rows, title="rendered", text=(0,))


def frame_choices(name: str, index: int, *, seed: int) -> Choices:
    """The random choices of one frame of a part, e.g. of `belt/learn`."""
    return Choices([seed, digest(name), index])


def _domain(pair: str, part: str) -> Domain:
    domain: Domain = getattr(PAIRS[pair], part)
    return domain


def _render(
    folder: Path,
    name: str,
    domains: Sequence[Domain],
    *,
    count: int,
    seed: int,
    on_progress: Callable[[str], None],
) -> dict[str, Any]:
    """Write one dataset. Its table comes last, so that a folder with a table is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, totals = [], Counter[str]()
    for index in range(count):
        choices = frame_choices(name, index, seed=seed)
        defects = pick_defects(choices.stream("defects"))
        labels = [defect for defect in DEFECTS if defect in defects] or [GOOD]
        file = f"{name.replace('/', '_')}_{index:04d}.jpg"
        (folder / file).write_bytes(draw_frame(domains[index % len(domains)], defects, choices))
        rows.append({"filename": file, "labels": "|".join(labels)})
        totals.update(labels)
        on_progress(f"{name}: {index + 1} of {count} frames")
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as table:
        writer = CsvWriter(table, ("filename", "labels"), line_end="\n")
        for row in rows:
            writer.write(row)
    return {"folder": str(folder), "frames": count, "labels": {label: totals[label] for label in (*DEFECTS, GOOD)}}
