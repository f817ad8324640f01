"""`index.html`, the report as one page that needs nothing else: pictures inside, no script, nothing from elsewhere.

In: a ReportData and the folder with its PNGs. Out: the page. Every text goes through the template's escaping.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.bundle.manifest import Manifest
from model_store.reports.data import ReportData
from model_store.reports.image_grids import Shot, mistakes, samples
from model_store.reports.model_summary import CLASS_COLUMNS, Facts, all_facts, class_rows, figure, when
from shared.errors import NotFound

PAGE_FILE = "index.html"
# Of a photograph 120 pixels wide: 4 KB, and nothing to be seen of the loss.
_JPEG_QUALITY = 85
_PLOTS = ("curves", "confusion", "thresholds", "reliability")
# What stands before the table of classes, and what before the plots; the rest ends the page.
_LEADING_FACTS = ("Model", "Figures")
_MEASURED_FACTS = ("Calibration", "Exports")
_NUMBER_COLUMNS = range(2, 8)  # of CLASS_COLUMNS, from 1


def write_page(folder: Path, data: ReportData) -> None:
    """Write `index.html` into the report's `folder`, which holds the plots already."""
    manifest = data.manifest
    shown = {**_page(manifest), **_pictures(folder, data)}
    shown["sections"] = _sections(shown)
    (folder / PAGE_FILE).write_text(render("report.html", **shown), encoding="utf-8")


def render(template: str, **values: Any) -> str:
    """A page from one of `templates/`, its values escaped.

    Raises:
        NotFound: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise NotFound("a page needs jinja2, not installed here: pip install 'sortline[train]'.") from error
    environment = Environment(
        loader=PackageLoader("model_store.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def jpeg_uri(image: NDArray[np.uint8]) -> str:
    """uint8 [s, s, 3] as a data URI."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=_JPEG_QUALITY)
    return _uri(out.getvalue(), "image/jpeg")


def _uri(data: bytes, content_type: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def _page(manifest: Manifest) -> dict[str, Any]:
    """All that comes from the manifest."""
    facts = [_with_id(one) for one in all_facts(manifest)]
    return {
        "title": f"{manifest.name}: report",
        "made": when(manifest.created_at),
        "mode": manifest.mode,
        "single": manifest.mode == "single",
        "classes_count": len(manifest.classes),
        "cards": _cards(manifest),
        "facts_before": [one for one in facts if one["title"] in _LEADING_FACTS],
        "facts_measured": [one for one in facts if one["title"] in _MEASURED_FACTS],
        "facts_after": [one for one in facts if one["title"] not in (*_LEADING_FACTS, *_MEASURED_FACTS)],
        "class_columns": CLASS_COLUMNS,
        "number_columns": _NUMBER_COLUMNS,
        "class_rows": class_rows(manifest),
    }


def _with_id(facts: Facts) -> dict[str, Any]:
    return {"id": facts.title.lower(), "title": facts.title, "rows": facts.rows}


def _cards(manifest: Manifest) -> list[tuple[str, str]]:
    """The few figures that are asked for first."""
    metrics, parity, calibration = manifest.metrics, manifest.parity, manifest.calibration
    names = {"accuracy": "accuracy", "macro F1": "macro_f1", "average precision": "map", "exact match": "exact_match"}
    cards = [(title, figure(metrics[name])) for title, name in names.items() if name in metrics]
    if calibration is not None:
        cards.append(("calibration error", f"{figure(calibration.ece_before)} → {figure(calibration.ece_after)}"))
    elif "ece" in metrics:
        cards.append(("calibration error", figure(metrics["ece"])))
    if "int8_labels_agreement" in parity:
        cards.append(("int8 gives the same labels", figure(parity["int8_labels_agreement"])))
    return cards


def _pictures(folder: Path, data: ReportData) -> dict[str, Any]:
    """The plots that were drawn, and the images with their answers."""
    judged, validation = data.judged, data.validation
    found = {name: _plot(folder / f"{name}.png") for name in _PLOTS if (folder / f"{name}.png").is_file()}
    shown: dict[str, Any] = {"plots": found, "measured": judged is not None}
    if judged is not None and validation is not None:
        shown |= {
            "samples": _shots(samples(validation, judged)),
            "mistakes": _shots(mistakes(validation, judged)),
            "mistakes_count": int((~judged.right).sum()),
            "images_count": len(validation.names),
            "calibrated": validation.uncalibrated is not None,
        }
    return shown


def _plot(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        width_px, height_px = image.size
    return {"uri": _uri(path.read_bytes(), "image/png"), "width_px": width_px, "height_px": height_px}


def _shots(shots: Sequence[Shot]) -> list[dict[str, str]]:
    return [
        {
            "name": shot.name,
            "uri": jpeg_uri(shot.thumbnail),
            "truth": " + ".join(shot.truth),
            "said": " + ".join(f"{name} {probability:.2f}" for name, probability in shot.said),
            "verdict": shot.verdict,
            "mark": shot.verdict.replace(", ", "-"),
        }
        for shot in shots
    ]


def _sections(shown: dict[str, Any]) -> list[tuple[str, str]]:
    """(id, name) of what is on the page, in its order."""
    before, measured, after = (
        [(one["id"], one["title"]) for one in shown[part]] for part in ("facts_before", "facts_measured", "facts_after")
    )
    classes = [("classes", "Classes")] if shown["class_rows"] else []
    plots = [(name, name.capitalize()) for name in _PLOTS if name in shown["plots"]]
    images = [("mistakes", "Worst mistakes"), ("samples", "Images")] if shown["measured"] else []
    return [*before, *classes, *measured, *plots, *images, *after]
