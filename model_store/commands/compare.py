"""`sortline models compare`: where two versions differ, image by image."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_store.commands.options import (
    EngineFlag,
    GoodClassFlag,
    HeldOutFlag,
    StoreFlag,
    load_labeled,
    open_model,
)
from model_store.commands.output import print_unused
from shared.cli import JsonFlag, print_json
from shared.messages import note

if TYPE_CHECKING:
    from rich.console import Console

    from model_store.evaluation.compare import Comparison

# Lines to print: one or two screens. --out has all of them.
_SHOWN = 40


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="NAME or NAME@VERSION")],
    b: Annotated[str, typer.Argument(metavar="B", help="NAME or NAME@VERSION")],
    dataset: Annotated[Path, typer.Option("--dataset", help="labeled images to compare them on")],
    engine: EngineFlag = None,
    held_out: HeldOutFlag = False,
    good_class: GoodClassFlag = None,
    out: Annotated[Path | None, typer.Option("--out", help="write the differing images as CSV")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="write a page with the differing images")] = None,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare two versions on a labeled dataset: metrics side by side, and every image on which they differ.

    They differ on an image when they give it different labels or lanes. The p-value is that of the exact McNemar test:
    how likely it is that two equally good models differ this unevenly by chance.

    Example: sortline models compare bottles@2 bottles@3 --dataset photographs --html differences.html
    """
    from model_store.datasets.image_loading import DecodeSettings
    from model_store.evaluation.compare import compare_versions
    from model_store.reports.comparison_output import write_csv, write_html
    from model_store.runtime.progress import show_progress
    from shared.output_files import check_output_files
    from shared.settings import load_settings

    settings = load_settings(engine=engine, model_store=model_store)
    check_output_files({"--out": out, "--html": html}, inputs=[dataset])
    data = load_labeled(dataset, held_out=held_out, good_class=good_class)
    check_output_files({"--out": out, "--html": html}, inputs=data.lists)
    decode_settings = DecodeSettings.of(settings)
    models = [open_model(settings, spec) for spec in (a, b)]
    with show_progress() as steps:
        run = partial(compare_versions, max_batch=settings.max_batch, decode_settings=decode_settings)
        found = run(data, *models, steps=steps)
        if out is not None:
            write_csv(out, found)
        if html is not None:
            write_html(html, found, decode_settings=decode_settings.for_model(models[0][0].manifest), steps=steps)
    _print(found, as_json=as_json)


def _print(found: Comparison, *, as_json: bool) -> None:
    from model_store.reports.comparison_output import warnings

    print_unused([item.as_dict() for item in found.a.predictions.unreadable], [])
    for warning in warnings(found):
        note(warning)
    print_json(found.as_dict()) if as_json else _print_comparison(found)


def _print_comparison(found: Comparison) -> None:
    from model_store.reports.comparison_output import shown_classes
    from shared.tables import plain_console, print_table

    console = plain_console()
    images, right = len(found.a.predictions.samples), found.count_correct()
    console.print(f"A: {found.a.title}\nB: {found.b.title}\n{images:,} images\n")
    print_table(console, ("", "A", "B", "B - A"), _rows(found.metrics()), title="Metrics")
    console.print()
    by_class = {name: row["f1"] for name, row in shown_classes(found).items()}
    print_table(console, ("class", "A", "B", "B - A"), _rows(by_class), title="F1 by class")
    console.print(
        f"\nboth are right on {right['both']:,}, only A on {right['only_a']:,}, only B on {right['only_b']:,}, neither "
        f"on {right['neither']:,}; p = {right['p_value']:.3g} if they are equally good\n"
    )
    _print_differences(console, found)


def _rows(metrics: dict[str, dict[str, float | None]]) -> list[tuple[str, ...]]:
    from model_store.reports.model_summary import METRIC_TITLES, format_delta, format_score

    return [
        (
            METRIC_TITLES.get(name, name),
            format_score(values["a"]),
            format_score(values["b"]),
            format_delta(values["difference"]),
        )
        for name, values in metrics.items()
    ]


def _print_differences(console: Console, found: Comparison) -> None:
    from model_store.reports.comparison_output import format_answer
    from shared.tables import print_table

    count = len(found.differing)
    if not count:
        console.print("both give every image the same labels and the same lane")
        return
    title = f"{count:,} images with different labels or lanes"
    rows = []
    for row in found.differing[:_SHOWN]:
        one = found.difference(int(row))
        answers = (
            f"{format_answer(one[side])} -> {one[side]['lane']} ({'right' if one[side]['right'] else 'wrong'})"
            for side in "ab"
        )
        rows.append((one["file"], " + ".join(one["truth"]), *answers))
    print_table(console, ("image", "true", "A", "B"), rows, title=title, text=range(4))
    if count > _SHOWN:
        console.print(f"and {count - _SHOWN:,} more: see --out differences.csv, --html differences.html or --json")
