"""The plots of a report, as PNG: learning curves, confusion, thresholds, reliability.

In: phases of a training, or scored predictions. Out: one file each. Uses matplotlib without a display or global state.
The colors are Okabe and Ito's, which color-blind people can tell apart.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.policy import Mode
from model_store.evaluation.metrics import Bins, ScoredPredictions, reliability
from model_store.reports.data import ValidationPredictions
from model_store.training.history import Phase, accuracy_title
from shared.arrays import Doubles

_DPI = 100
_BLUE, _ORANGE, _GREEN, _GRAY = "#0072B2", "#D55E00", "#009E73", "#666666"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a label may hold a dollar sign
}
# More cells or panels than these can't be read on one screen; the table of metrics has all classes.
MAX_CONFUSION_CLASSES = 25
MAX_PANELS = 12
_PANELS_A_ROW = 4
_NAME_LENGTH = 24


def draw_curves(path: Path, phases: Sequence[Phase], *, mode: Mode) -> None:
    """Accuracy and loss by epoch, one phase after the other, and the learning rate where it is known."""
    rates = any("learning_rate" in phase.history for phase in phases)
    with _picture(path, 13 if rates else 9, 3.6) as figure:
        for position, (name, title) in enumerate((("acc", accuracy_title(mode)), ("loss", "loss")), start=1):
            axes = figure.add_subplot(1, 3 if rates else 2, position)
            _curve(axes, phases, name, label="training", color=_BLUE)
            _curve(axes, phases, f"val_{name}", label="validation", color=_ORANGE)
            _mark_kept(axes, phases, f"val_{name}")
            _finish_curves(axes, phases, title=title)
            axes.legend()
        if rates:
            axes = figure.add_subplot(1, 3, 3)
            _curve(axes, phases, "learning_rate", label="learning rate", color=_GREEN)
            axes.set_yscale("log", nonpositive="mask")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            _finish_curves(axes, phases, title="learning rate")


def draw_confusion(path: Path, scored: ScoredPredictions) -> None:
    """Which labels the images of each label were given; in `multi` also the right and wrong decisions per label."""
    shown = _most_confused(scored)
    names = [_short(scored.classes[column]) for column in shown]
    side_in = 2.6 + 0.55 * len(shown)
    panels = shown[:MAX_PANELS] if scored.mode == "multi" else []
    across = _panels_per_row(len(panels))
    rows = -(-len(panels) // across)
    with _picture(path, max(side_in + 1, 8 if panels else 0), side_in + 2.1 * rows) as figure:
        parts = figure.subfigures(2 if rows else 1, 1, height_ratios=[side_in, 2.1 * rows] if rows else None)
        upper, *lower = np.atleast_1d(parts)
        _draw_matrix(upper, scored, shown, names)
        for subfigure in lower:
            for position, (column, name) in enumerate(zip(panels, names, strict=False), start=1):
                axes = subfigure.add_subplot(rows, across, position)
                _draw_two_by_two(axes, scored, column, name)


def draw_thresholds(path: Path, scored: ScoredPredictions) -> None:
    """The effect of every possible threshold, class by class, and the policy's threshold.

    `multi`: precision, recall and F1. `single`, where the threshold separates certain from uncertain answers: the share
    of this class's answers that are certain, and the share of those that are correct.
    """
    columns = _panel_columns(scored)
    across = _panels_per_row(len(columns))
    rows = max(1, -(-len(columns) // across))
    with _picture(path, max(6.0, 3.2 * across), 2.5 * rows + 0.5) as figure:
        lines: list[Any] = []
        for position, column in enumerate(columns, start=1):
            axes = figure.add_subplot(rows, across, position)
            lines = _draw_threshold(axes, scored, column)
        if lines:
            figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))
        else:
            figure.text(0.5, 0.5, "no class has both a threshold and images", ha="center")


def draw_reliability(path: Path, validation: ValidationPredictions) -> None:
    """How often answers of each confidence are correct, before and after calibration, and their number."""
    scored = validation.scored
    sides = [("as published" if validation.uncalibrated is None else "after calibration", scored.probabilities)]
    if validation.uncalibrated is not None:
        sides.insert(0, ("before calibration", validation.uncalibrated))
    with _picture(path, 4.2 * len(sides), 5.4) as figure:
        grid = figure.add_gridspec(2, len(sides), height_ratios=[3, 1])
        for column, (title, probabilities) in enumerate(sides):
            bins = reliability(probabilities, scored.truth, scored.label_mask, mode=scored.mode)
            upper = figure.add_subplot(grid[0, column])
            _draw_reliability(upper, bins, title=f"{title}: ECE {bins.error:.3f}")
            _draw_counts(figure.add_subplot(grid[1, column], sharex=upper), bins)
        figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=3)


@contextlib.contextmanager
def _picture(path: Path, width_in: float, height_in: float) -> Iterator[Any]:
    """A figure without a window, saved when the block ends."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # For characters that the font lacks, boxes are drawn.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure
        figure.savefig(path, dpi=_DPI)


def _starts(phases: Sequence[Phase]) -> list[int]:
    """The number, from 0, of each phase's first epoch in the whole training."""
    lengths = [len(phase.history["loss"]) for phase in phases]
    return [sum(lengths[:index]) for index in range(len(phases))]


def _curve(axes: Any, phases: Sequence[Phase], name: str, *, label: str, color: str) -> None:
    """Draw one line per phase: the step from the last epoch of one to the first of the next is not progress."""
    marker = "." if sum(len(phase.history["loss"]) for phase in phases) <= 40 else None
    for start, phase in zip(_starts(phases), phases, strict=True):
        if name in phase.history:
            values = phase.history[name]
            epochs = range(start + 1, start + 1 + len(values))
            axes.plot(epochs, values, label=label, color=color, marker=marker, linewidth=1.4)
            label = "_"  # matplotlib leaves such a line out of the legend


def _mark_kept(axes: Any, phases: Sequence[Phase], name: str) -> None:
    """Circle the epoch of each phase whose weights were kept; the legend counts epochs by phase, as `train` does."""
    kept = [
        (start + phase.best_epoch + 1, phase.history[name][phase.best_epoch], f"{phase.name} {phase.best_epoch + 1}")
        for start, phase in zip(_starts(phases), phases, strict=True)
        if phase.best_epoch is not None and phase.best_epoch >= 0 and name in phase.history
    ]
    if kept:
        epochs, values, names = zip(*kept, strict=True)
        label = f"epoch kept: {', '.join(names)}"
        axes.plot(epochs, values, "o", mfc="none", mec="black", ms=9, label=label)


def _finish_curves(axes: Any, phases: Sequence[Phase], *, title: str) -> None:
    """Title and axes; several phases are numbered above the plot and named below it."""
    axes.set_title(title, pad=16 if len(phases) > 1 else 6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(phases) < 2:
        axes.set_xlabel("epoch")
        return
    axes.set_xlabel("epoch (" + ", ".join(f"{n}: {phase.name}" for n, phase in enumerate(phases, start=1)) + ")")
    for number, (start, phase) in enumerate(zip(_starts(phases), phases, strict=True), start=1):
        if number > 1:
            axes.axvline(start + 0.5, color=_GRAY, linewidth=0.8, linestyle=":")
        middle = start + (len(phase.history["loss"]) + 1) / 2
        axes.text(middle, 1.01, str(number), transform=axes.get_xaxis_transform(), ha="center", color=_GRAY)


def _most_confused(scored: ScoredPredictions) -> list[int]:
    """All columns, or those with the most errors, in the order of the classes."""
    if len(scored.classes) <= MAX_CONFUSION_CLASSES:
        return list(range(len(scored.classes)))
    wrong = ((scored.truth != scored.decided) & scored.label_mask).sum(axis=0)
    present = (scored.truth | scored.decided).sum(axis=0)
    order = np.lexsort((-present, -wrong))[:MAX_CONFUSION_CLASSES]
    return sorted(order.tolist())


def _draw_matrix(figure: Any, scored: ScoredPredictions, shown: list[int], names: list[str]) -> None:
    """Rows: images that have a label. Columns: how many were given it, were given another by mistake, or missed it."""
    counts = confusion_counts(scored)
    images = np.maximum(1, scored.truth.sum(axis=0))[shown]
    cells = np.column_stack([counts[np.ix_(shown, shown)], counts[shown, -1]])
    share = cells / images[:, None]
    axes = figure.add_subplot()
    axes.grid(visible=False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(shown) + 1), [*names, "(missed)"], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(shown)), names)
    axes.axvline(len(shown) - 0.5, color=_GRAY, linewidth=1)
    left_out = len(scored.classes) - len(shown)
    beyond = f" ({len(shown)} of {len(scored.classes)} classes, the most confused)" if left_out else ""
    axes.set(xlabel="given", ylabel="true", title=f"images by true and by given label{beyond}")
    for (y, x), count in np.ndenumerate(cells):
        if count or (x == y and scored.truth[:, shown[y]].any()):
            color = "white" if share[y, x] > 0.5 else "black"
            axes.text(x, y, str(count), ha="center", va="center", color=color)


def confusion_counts(scored: ScoredPredictions) -> NDArray[np.int64]:
    """Counts, [C, C + 1]: images with label `row` that were given it (diagonal), were given `column` by mistake, or
    missed it (last column).

    In `single` the mistakes of a row add up to its last column. In `multi` an image counts in the row of each of its
    labels, once for each label that it was given by mistake.
    """
    truth = scored.truth.astype(np.int64)
    mistaken = (scored.decided & ~scored.truth & scored.label_mask).astype(np.int64)
    counts = truth.T @ mistaken
    np.fill_diagonal(counts, (scored.truth & scored.decided).sum(axis=0))
    return np.column_stack([counts, (scored.truth & ~scored.decided).sum(axis=0)])


def _draw_two_by_two(axes: Any, scored: ScoredPredictions, column: int, name: str) -> None:
    known = scored.label_mask[:, column]
    truth, decided = scored.truth[known, column], scored.decided[known, column]
    cells = np.array([[(truth & decided).sum(), (truth & ~decided).sum()], [(~truth & decided).sum(), 0]])
    cells[1, 1] = (~truth & ~decided).sum()
    axes.grid(visible=False)
    axes.imshow([[0.35, -0.3], [-0.3, 0.15]], cmap="RdBu", vmin=-1, vmax=1)
    axes.set_xticks([0, 1], ["given", "not"])
    axes.set_yticks([0, 1], ["has it", "hasn't"])
    axes.set_title(name)
    for (y, x), count in np.ndenumerate(cells):
        axes.text(x, y, str(count), ha="center", va="center", fontsize=11)


def _panels_per_row(panels: int) -> int:
    """Panels per row, chosen so that no row is nearly empty."""
    return 3 if panels in (5, 6, 9) else min(_PANELS_A_ROW, max(1, panels))


def _panel_columns(scored: ScoredPredictions) -> list[int]:
    """The classes with a threshold and at least one image; if there are too many, those with the most errors."""
    usable = [
        column
        for column, name in enumerate(scored.classes)
        if scored.threshold(name) is not None and (scored.truth | scored.decided)[:, column].any()
    ]
    if len(usable) <= MAX_PANELS:
        return usable
    wrong = ((scored.truth != scored.decided) & scored.label_mask).sum(axis=0)
    return sorted(sorted(usable, key=lambda column: -wrong[column])[:MAX_PANELS])


def _draw_threshold(axes: Any, scored: ScoredPredictions, column: int) -> list[Any]:
    name = scored.classes[column]
    series = _single_series(scored, column) if scored.mode == "single" else _multi_series(scored, column)
    thresholds = np.linspace(0, 1, 101)
    lines = [
        axes.plot(thresholds, values, label=label, color=color, linewidth=1.4)[0]
        for (label, values), color in zip(series.items(), (_BLUE, _ORANGE, _GREEN), strict=False)
    ]
    chosen = scored.threshold(name)
    lines.append(axes.axvline(chosen, color="black", linestyle="--", linewidth=1, label="the policy's threshold"))
    axes.set(xlim=(0, 1), ylim=(-0.03, 1.03), xticks=(0, 0.25, 0.5, 0.75, 1), yticks=(0, 0.5, 1))
    axes.set_title(f"{_short(name)}: {chosen:.2f}")
    return lines


def _multi_series(scored: ScoredPredictions, column: int) -> dict[str, Doubles]:
    known = scored.label_mask[:, column]
    truth, scores = scored.truth[known, column], scored.probabilities[known, column]
    given = scores[None, :] >= np.linspace(0, 1, 101)[:, None]
    hits, given_count = (given & truth).sum(axis=1), given.sum(axis=1)
    return {
        "precision": _ratio(hits, given_count),
        "recall": _ratio(hits, np.full(101, truth.sum())),
        "F1": _ratio(2 * hits, given_count + truth.sum()),
    }


def _single_series(scored: ScoredPredictions, column: int) -> dict[str, Doubles]:
    answered = scored.top == column
    truth, scores = scored.truth[answered, column], scored.probabilities[answered, column]
    certain = scores[None, :] >= np.linspace(0, 1, 101)[:, None]
    return {
        "right, of its certain answers": _ratio((certain & truth).sum(axis=1), certain.sum(axis=1)),
        "certain, of all its answers": _ratio(certain.sum(axis=1), np.full(101, len(truth))),
    }


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Doubles:
    """part / whole; NaN (not drawn) where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))


def _draw_reliability(axes: Any, bins: Bins, *, title: str) -> None:
    axes.plot([0, 1], [0, 1], color=_GRAY, linestyle=":", label="perfectly calibrated")
    axes.vlines(bins.confidence, bins.confidence, bins.frequency, color=_ORANGE, linewidth=3, alpha=0.5, label="gap")
    axes.plot(bins.confidence, bins.frequency, "o-", color=_BLUE, linewidth=1.2, label="measured")
    axes.set(title=title, ylabel="share that is right", xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
    axes.tick_params(labelbottom=False)


def _draw_counts(axes: Any, bins: Bins) -> None:
    axes.bar(bins.confidence, bins.answers, width=0.06, color=_BLUE)
    axes.set(xlabel="confidence", ylabel="answers", ylim=(0, max(1, bins.answers.max(initial=0)) * 1.25))
    for x, count in zip(bins.confidence, bins.answers, strict=True):
        axes.annotate(str(count), (x, count), ha="center", va="bottom", fontsize=7)


def _short(name: str) -> str:
    """The name; a long one loses its middle, because long names often differ only at their ends."""
    half = _NAME_LENGTH // 2
    return name if len(name) <= _NAME_LENGTH else f"{name[: half - 1].rstrip()}…{name[-half:].lstrip()}"
