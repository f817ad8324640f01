"""The files that `models compare` writes: the differing images as CSV, and the comparison as one page.

In: a Comparison. Out: one file each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model_store.datasets.image_loading import DecodeSettings, decode_samples
from model_store.evaluation.compare import CLASS_METRICS, ComparedModel, Comparison
from model_store.evaluation.evaluate import seen_warning
from model_store.reports.data import THUMBNAIL_PX
from model_store.reports.model_summary import MAX_CLASSES, MEASURED_COLUMNS, METRIC_TITLES, format_delta, format_score
from model_store.reports.page import jpeg_uri, render
from model_store.runtime.progress import ProgressSteps
from shared.csv_files import CsvWriter
from shared.output_files import unwritable_error

# Images on the page. Each takes about 4 KB, so a phone can still open it. The CSV has all of them.
MAX_SHOWN = 500
# Names and forms are those of `results --csv`.
_ANSWER_COLUMNS = ("labels", "probability", "lane", "right")
_COLUMNS = ("file", "truth", *(f"{side}_{what}" for side in "ab" for what in _ANSWER_COLUMNS))


def write_csv(path: Path, comparison: Comparison) -> None:
    """Write one line for each image that the two models differ on; several labels are joined by `|`, as in labels.csv.

    Raises:
        BadSetting: the file can't be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = CsvWriter(file, _COLUMNS)
            for row in _csv_rows(comparison):
                writer.write(row)
    except OSError as error:
        raise unwritable_error(path, error, flag="--out") from error


def write_html(path: Path, comparison: Comparison, *, decode_settings: DecodeSettings, steps: ProgressSteps) -> None:
    """Write one self-contained page with the metrics and the differing images, at most MAX_SHOWN.

    `decode_settings` must be those of the comparison.

    Raises:
        BadSetting: the file can't be written.
        NotFound: jinja2 is not installed.
    """
    shown = comparison.differing[:MAX_SHOWN]
    samples = [comparison.a.predictions.samples[row] for row in shown]
    with steps.step("Drawing the images", total=len(samples)) as on_progress:
        # Whole images without distortion: they are for people, and the two models may crop different regions.
        images = decode_samples(
            comparison.dataset.files,
            samples,
            size_px=THUMBNAIL_PX,
            decode_settings=decode_settings,
            fit="pad",
            on_progress=on_progress,
        ).images
    thumbnails = [_thumbnail(comparison, int(row), jpeg_uri(image)) for row, image in zip(shown, images, strict=True)]
    summary = comparison.as_dict()
    page = render(
        "compare.html",
        title=f"{comparison.a.title} and {comparison.b.title}",
        a=comparison.a.title,
        b=comparison.b.title,
        warnings=warnings(comparison),
        images=summary["images"],
        right=summary["right"],
        metrics=[(METRIC_TITLES[name], *_cells(values)) for name, values in summary["figures"].items()],
        classes=[(name, row["images"], *_class_cells(row)) for name, row in shown_classes(comparison).items()],
        class_metrics=MEASURED_COLUMNS[1:5],
        thumbnails=thumbnails,
        differing=len(comparison.differing),
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise unwritable_error(path, error, flag="--html") from error


def warnings(comparison: Comparison) -> list[str]:
    """Warnings about the comparison; empty if there are none."""
    labels = comparison.as_dict()["labels"]
    images = len(comparison.a.predictions.samples)
    found = [
        f"{side.title}: {warning}"
        for side in (comparison.a, comparison.b)
        if (warning := seen_warning(side.seen, images=images))
    ]
    if same := labels["same"]:
        pairs = [f"{ours!r} of A is {theirs!r} of B" for ours, theirs in same.items()]
        found.append(f"one class in two spellings: {', '.join(pairs)}. Both are shown under A's name.")
    for side, only in ((comparison.a, labels["only_a"]), (comparison.b, labels["only_b"])):
        if only:
            found.append(
                f"only {side.title} knows {', '.join(only)}: macro F1 and map are over the shared labels, and an image "
                "with a label that a model doesn't know counts as wrong for it."
            )
    if labels["unknown_to_both"]:
        found.append(f"neither knows {', '.join(labels['unknown_to_both'])}: such images count as wrong for both.")
    return found


def shown_classes(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """The metrics per class; of more than MAX_CLASSES only those that some image has."""
    rows = comparison.per_class()
    return rows if len(rows) <= MAX_CLASSES else {name: row for name, row in rows.items() if row["images"]}


def format_answer(answer: dict[str, Any]) -> str:
    """The labels of one answer with their probabilities."""
    return " + ".join(f"{item['label']} {item['probability']:.2f}" for item in answer["labels"])


def _csv_rows(comparison: Comparison) -> Iterator[dict[str, str]]:
    for row in comparison.differing:
        found = comparison.difference(int(row))
        line = {"file": found["file"], "truth": "|".join(found["truth"])}
        for side in "ab":
            answer = found[side]
            line |= {
                f"{side}_labels": "|".join(item["label"] for item in answer["labels"]),
                f"{side}_probability": "|".join(str(item["probability"]) for item in answer["labels"]),
                f"{side}_lane": answer["lane"],
                f"{side}_right": "true" if answer["right"] else "false",
            }
        yield line


def _thumbnail(comparison: Comparison, row: int, uri: str) -> dict[str, Any]:
    found = comparison.difference(row)
    answers = [_answer_values(side, found[key]) for side, key in ((comparison.a, "a"), (comparison.b, "b"))]
    return {"name": found["file"], "uri": uri, "truth": " + ".join(found["truth"]), "answers": answers}


def _answer_values(side: ComparedModel, answer: dict[str, Any]) -> dict[str, str]:
    return {
        "model": f"{side.ref.name}@{side.ref.version}",
        "labels": format_answer(answer),
        "lane": answer["lane"],
        "verdict": "right" if answer["right"] else "wrong",
    }


def _cells(values: dict[str, float | None]) -> tuple[str, str, str]:
    return format_score(values["a"]), format_score(values["b"]), format_delta(values["difference"])


def _class_cells(row: dict[str, Any]) -> list[str]:
    return [text for name in CLASS_METRICS for text in _cells(row[name])]
