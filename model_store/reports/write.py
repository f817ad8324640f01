"""The report of one training: pictures, a page, and TensorBoard's event files, in `report/` of a bundle.

    curves.png          accuracy and loss by epoch
    confusion.png       labels given, by true label
    thresholds.png      what every threshold would give, and the policy's
    reliability.png     how often answers of each confidence are right, before and after calibration
    samples.png         held-out images with truth and answer
    mistakes.png        the surest wrong answers
    index.html          all of it with all figures on one page
    logs/train, logs/validation     for TensorBoard

In: a ReportData. Out: those files; without labelled held-out images, or without a training, those that make sense.
"""

from __future__ import annotations

from pathlib import Path

from model_store.reports.data import ReportData
from model_store.reports.image_grids import draw_grid, mistakes, samples
from model_store.reports.page import write_page
from model_store.reports.plots import draw_confusion, draw_curves, draw_reliability, draw_thresholds
from model_store.reports.tensorboard import write_events


def write_report(folder: Path, data: ReportData) -> None:
    """Write the report into `folder`, which is made.

    The page names the model but no version: that is settled when the store publishes it.
    """
    folder.mkdir(parents=True)
    if data.phases:
        draw_curves(folder / "curves.png", data.phases)
    if data.validation is not None and (judged := data.judged) is not None:
        draw_confusion(folder / "confusion.png", judged)
        draw_thresholds(folder / "thresholds.png", judged)
        draw_reliability(folder / "reliability.png", judged, data.validation)
        shots, wrong = samples(data.validation, judged), mistakes(data.validation, judged)
        draw_grid(folder / "samples.png", shots, title="images that were not learnt from", empty="none")
        draw_grid(folder / "mistakes.png", wrong, title="worst mistakes, the surest first", empty="none")
    write_page(folder, data)
    write_events(folder, data)
