"""Writes the report of one training into `report/` of a bundle: images, a page, and TensorBoard's event files.

    curves.png          accuracy and loss by epoch
    confusion.png       labels given, by true label
    thresholds.png      the effect of every threshold, and the policy's thresholds
    reliability.png     how often answers of each confidence are correct, before and after calibration
    samples.png         validation images with true labels and answers
    mistakes.png        the most confident wrong answers
    index.html          all of this and all metrics on one page
    logs/train, logs/validation     for TensorBoard

In: a ReportData. Out: these files; files that need validation images or a training are left out without them.
"""

from __future__ import annotations

from pathlib import Path

from model_store.reports.data import ReportData
from model_store.reports.image_grids import draw_grid, mistake_thumbnails, sample_thumbnails
from model_store.reports.page import write_page
from model_store.reports.plots import draw_confusion, draw_curves, draw_reliability, draw_thresholds
from model_store.reports.tensorboard import write_events


def write_report(folder: Path, data: ReportData) -> None:
    """Write the report into `folder`, which is created.

    The page names the model but no version, because the store chooses that when it publishes.
    """
    folder.mkdir(parents=True)
    if data.phases:
        draw_curves(folder / "curves.png", data.phases, mode=data.manifest.mode)
    if data.validation is not None:
        draw_confusion(folder / "confusion.png", data.validation.scored)
        draw_thresholds(folder / "thresholds.png", data.validation.scored)
        draw_reliability(folder / "reliability.png", data.validation)
        samples = sample_thumbnails(data.validation)
        mistakes = mistake_thumbnails(data.validation)
        draw_grid(folder / "samples.png", samples, title="images that were not trained on", empty="none")
        draw_grid(folder / "mistakes.png", mistakes, title="worst mistakes, the most confident first", empty="none")
    write_page(folder, data)
    write_events(folder, data)
