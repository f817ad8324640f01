"""`index.html`: the report as one self-contained page, with its images inside and without scripts.

In: a ReportData and the folder with its PNGs. Out: the page. The template escapes every text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from model_store.bundle.manifest import Manifest
from model_store.reports.data import ReportData
from model_store.reports.image_grids import Thumbnail, mistake_thumbnails, sample_thumbnails
from model_store.reports.model_summary import (
    CLASS_COLUMNS,
    SummarySection,
    class_rows,
    format_score,
    format_time,
    summary_sections,
)
from shared.errors import NotFound
from shared.images.arrays import Pixels
from shared.printable import printable

PAGE_FILE = "index.html"
# A photograph 120 pixels wide takes 4 KB, and the loss is not visible.
_JPEG_QUALITY = 85
_PLOTS = ("curves", "confusion", "thresholds", "reliability")
# The sections before the table of classes, and those between it and the plots. The others come after the images.
_LEADING_SECTIONS = ("Model", "Metrics")
_MEASURED_SECTIONS = ("Calibration", "Exports")
_NUMBER_COLUMNS = range(2, 8)  # of CLASS_COLUMNS, from 1


def write_page(folder: Path, data: ReportData) -> None:
    """Write `index.html` into the report's `folder`, which already holds the plots."""
    manifest = data.manifest
    shown = {**_page(manifest), **_images(folder, data)}
    shown["sections"] = _sections(shown)
    (folder / PAGE_FILE).write_text(render("report.html", **shown), encoding="utf-8")


def render(template: str, **values: Any) -> str:
    """A page from one of `templates/`, its values escaped. Browsers run no script of it and load nothing for it.

    Raises:
        NotFound: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise NotFound("the page needs jinja2, which is not installed: run pip install 'sortline[train]'.") from error
    environment = Environment(
        loader=PackageLoader("model_store.reports"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _shown(value: object) -> object:
    """A value as the page shows it. A part of the page itself, which a macro has made, stays as it is."""
    return printable(value) if type(value) is str else value


def jpeg_uri(image: Pixels) -> str:
    """uint8 [s, s, 3] as a data URI."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=_JPEG_QUALITY)
    return _uri(out.getvalue(), "image/jpeg")


def _uri(data: bytes, content_type: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def _page(manifest: Manifest) -> dict[str, Any]:
    """The values that come from the manifest."""
    summary = [_with_id(section) for section in summary_sections(manifest)]
    return {
        "title": f"{manifest.name}: report",
        "made": format_time(manifest.created_at),
        "mode": manifest.mode,
        "single": manifest.mode == "single",
        "classes_count": len(manifest.classes),
        "cards": _cards(manifest),
        "summary_before": [one for one in summary if one["title"] in _LEADING_SECTIONS],
        "summary_measured": [one for one in summary if one["title"] in _MEASURED_SECTIONS],
        "summary_after": [one for one in summary if one["title"] not in (*_LEADING_SECTIONS, *_MEASURED_SECTIONS)],
        "class_columns": CLASS_COLUMNS,
        "number_columns": _NUMBER_COLUMNS,
        "class_rows": class_rows(manifest),
    }


def _with_id(section: SummarySection) -> dict[str, Any]:
    return {"id": section.title.lower(), "title": section.title, "rows": section.rows}


def _cards(manifest: Manifest) -> list[tuple[str, str]]:
    """The most important metrics."""
    metrics, parity, calibration = manifest.metrics, manifest.parity, manifest.calibration
    names = {"accuracy": "accuracy", "macro F1": "macro_f1", "average precision": "map", "exact match": "exact_match"}
    cards = [(title, format_score(metrics[name])) for title, name in names.items() if name in metrics]
    if calibration is not None and calibration.is_applied:
        cards.append(
            ("calibration error", f"{format_score(calibration.ece_before)} → {format_score(calibration.ece_after)}")
        )
    elif "ece" in metrics:
        cards.append(("calibration error", format_score(metrics["ece"])))
    if "int8_labels_agreement" in parity:
        cards.append(("int8 gives the same labels", format_score(parity["int8_labels_agreement"])))
    return cards


def _images(folder: Path, data: ReportData) -> dict[str, Any]:
    """The plots that were drawn, and the thumbnails."""
    validation = data.validation
    plots = {name: _plot(folder / f"{name}.png") for name in _PLOTS if (folder / f"{name}.png").is_file()}
    shown: dict[str, Any] = {"plots": plots, "measured": validation is not None}
    if validation is not None:
        shown |= {
            "samples": _thumbnails(sample_thumbnails(validation)),
            "mistakes": _thumbnails(mistake_thumbnails(validation)),
            "mistakes_count": int((~validation.scored.correct).sum()),
            "images_count": len(validation.names),
            "calibrated": validation.uncalibrated is not None,
        }
    return shown


def _plot(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        width_px, height_px = image.size
    return {"uri": _uri(path.read_bytes(), "image/png"), "width_px": width_px, "height_px": height_px}


def _thumbnails(thumbnails: Sequence[Thumbnail]) -> list[dict[str, str]]:
    return [
        {
            "name": thumbnail.name,
            "uri": jpeg_uri(thumbnail.pixels),
            "truth": " + ".join(thumbnail.truth),
            "answer": " + ".join(f"{name} {probability:.2f}" for name, probability in thumbnail.answer),
            "verdict": thumbnail.verdict,
            "mark": thumbnail.verdict.replace(", ", "-"),
        }
        for thumbnail in thumbnails
    ]


def _sections(shown: dict[str, Any]) -> list[tuple[str, str]]:
    """(id, name) of the sections of the page, in order."""
    before, measured, after = (
        [(one["id"], one["title"]) for one in shown[part]]
        for part in ("summary_before", "summary_measured", "summary_after")
    )
    classes = [("classes", "Classes")] if shown["class_rows"] else []
    plots = [(name, name.capitalize()) for name in _PLOTS if name in shown["plots"]]
    images = [("mistakes", "Worst mistakes"), ("samples", "Images")] if shown["measured"] else []
    return [*before, *classes, *measured, *plots, *images, *after]
