"""The plot of a run of `sortline bench`: a PNG with one or two panels for each benchmark that has a picture.

It is drawn by matplotlib, without a display or global state. The colors are Okabe and Ito's, which color-blind people
can tell apart.
"""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measuring.record import Record
from bench.output.cells import words
from bench.output.tables import kind_of, machine_line, ratios
from shared.errors import NotFound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 110
_COLUMNS = 2
_PANEL_IN = (6.8, 4.2)  # width and height of one panel, inches
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#666666")
_OUTCOMES = {
    "sorted": "#009E73",
    "late": "#E69F00",
    "expired": "#56B4E9",
    "refused": "#CC79A7",
    "rejected": "#666666",
    "failed": "#D55E00",
}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
}
_PERCENTILES = ("p50", "p95", "p99")


class Panel(NamedTuple):
    """One panel: its title, and the function that draws it."""

    title: str
    draw: Callable[[Axes], None]


def draw(document: dict[str, Any], path: Path) -> list[str]:
    """Draw the records of a run into a PNG file.

    Returns:
        the titles of the panels. If there are none, as for `shed`, whose few figures need no picture, no file is made.

    Raises:
        NotFound: matplotlib is not installed; says how to get it. Nothing is written.
    """
    if not matplotlib_installed():
        raise NotFound("no plot is drawn because matplotlib is not installed: pip install 'sortline[train]'.")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = panels_of(document["benchmarks"])
    if not panels:
        return []
    rows = -(-len(panels) // _COLUMNS)
    across = min(_COLUMNS, len(panels))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_PANEL_IN[0] * across, _PANEL_IN[1] * rows + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(
            "\n".join(textwrap.wrap(machine_line(document["machine"]), 75 * across)), fontsize=9, color="#444444"
        )
        for place, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, across, place)
            axes.set_title(panel.title)
            panel.draw(axes)
        figure.savefig(path, dpi=_DPI)
    return [panel.title for panel in panels]


def matplotlib_installed() -> bool:
    """Whether a plot can be drawn; doesn't import it."""
    return importlib.util.find_spec("matplotlib") is not None


def panels_of(records: Sequence[Record]) -> list[Panel]:
    """The panels of a run, in the order of its records. All sizes of `line` share one panel."""
    panels: list[Panel] = []
    lines = [record for record in records if kind_of(record) == "line"]
    for record in records:
        match kind_of(record):
            case "line" if record is not lines[0]:
                pass
            case "line":
                panels.append(Panel("images/s through Redis, against others", lambda axes: _ratios(axes, lines)))
            case "queue":
                panels.append(_queue_panel(record))
            case kind:
                panels += _PANELS[kind](record) if kind in _PANELS else []
    return panels


def _queue_panel(record: Record) -> Panel:
    return Panel("jobs/s with an engine that answers at once, against others", lambda axes: _ratios(axes, [record]))


def _engine_panels(record: Record) -> list[Panel]:
    title = f"{record['model']} at {record['input_size_px']} px, the engine alone"

    def bars(axes: Axes) -> None:
        rates = {
            name: [figures["median"] for figures in by_size.values()]
            for name, by_size in record["images_per_s"].items()
        }
        sizes = list(next(iter(record["images_per_s"].values())))
        _grouped(axes, sizes, rates, form="{:,.0f}")
        axes.set_xlabel("batch size")
        axes.set_ylabel("images/s")

    return [Panel(title, bars)]


def _ratios(axes: Axes, records: Sequence[Record]) -> None:
    """Horizontal bars: Sortline's rate as a multiple of each contender's, on a log scale as they are far apart."""
    highest: dict[str, float] = {}
    for record in records:
        for name, value in ratios(record).items():
            highest[name] = max(value, highest.get(name, value))
    names = sorted(highest, key=lambda name: highest[name])  # short bars on top, beside the legend
    height = 0.8 / len(records)
    for number, record in enumerate(records):
        found = ratios(record)
        shown = [name for name in names if name in found]
        places = [names.index(name) + (number - (len(records) - 1) / 2) * height for name in shown]
        bars = axes.barh(
            places,
            [found[name] - 1 for name in shown],
            height,
            left=1,
            label=record["benchmark"],
            color=_COLORS[number % len(_COLORS)],
        )
        axes.bar_label(bars, [f"{found[name]:g} x" for name in shown], padding=3, fontsize=7)
    axes.set_xscale("log")
    lowest = min(value for record in records for value in ratios(record).values())
    axes.set_xlim(min(0.5, lowest * 0.6), max(2.0, highest[names[-1]] * 2.2))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.axvline(1, color="#444444", linewidth=1)
    axes.set_yticks(range(len(names)), [textwrap.fill(words(name), 24) for name in names])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel("Sortline's rate as a multiple of each contender's (log scale)")
    if len(records) > 1:
        axes.legend(loc="upper right", fontsize=8)


def _latency_panels(record: Record) -> list[Panel]:
    capacity = record["capacity_images_per_s"]["median"]
    return [
        Panel(
            f"capture to result (expired included), {_engine_of(record)}; 100 % is {capacity:,.0f} images/s",
            lambda axes: _times(axes, record),
        ),
        Panel(
            f"what became of the images, deadline {record['deadline_ms']:g} ms, {_engine_of(record)}",
            lambda axes: _goodput(axes, record),
        ),
    ]


def _engine_of(record: Record) -> str:
    """`real engine` for the benchmark `latency real`."""
    return f"{str(record['benchmark']).partition(' ')[2]} engine"


def _times(axes: Axes, record: Record) -> None:
    percents = [load["percent"] for load in record["loads"]]
    for name, color in zip(_PERCENTILES, _COLORS, strict=False):
        times = [load["capture_to_result_ms"][name] for load in record["loads"]]
        axes.plot(percents, times, marker="o", color=color, label=name)
    axes.axhline(record["deadline_ms"], color="#444444", linestyle="--", linewidth=1, label="deadline")
    axes.axvline(100, color="#bbbbbb", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(percents, [str(percent) for percent in percents])
    axes.set_xticks([], minor=True)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("load, % of the worker's capacity")
    axes.set_ylabel("ms (log scale)")
    axes.legend(fontsize=8)


def _goodput(axes: Axes, record: Record) -> None:
    labels = [f"{load['percent']} %" for load in record["loads"]]
    below = [0.0] * len(labels)
    for name, color in _OUTCOMES.items():
        shares = [
            100 * (sum(load["refused"].values()) if name == "refused" else load["outcomes"][name]) / load["frames"]
            for load in record["loads"]
        ]
        if any(shares):
            axes.bar(labels, shares, bottom=below, color=color, label=words(name) if name != "sorted" else "in time")
            below = [low + share for low, share in zip(below, shares, strict=True)]
    for place, load in enumerate(record["loads"]):
        rate = load["sorted_images_per_s"]["median"]
        axes.annotate(f"{rate:,.0f}/s", (place, 101), ha="center", va="bottom", fontsize=8)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlabel("load, % of the worker's capacity (above the bars: images/s in time)")
    axes.set_ylabel("% of the images sent")
    axes.grid(False, axis="x")
    axes.set_xlim(-0.6, len(labels) + 0.7)  # room for the legend beside the bars
    axes.legend(fontsize=8, loc="center right")


def _scaling_panels(record: Record) -> list[Panel]:
    simulated = record["simulated"]
    title = f"simulated engine ({simulated['batch_ms']:g} ms a batch + {simulated['image_ms']:g} ms an image)"
    return [
        Panel(
            f"{record['model']}, {record['real']['size']}: workers on this machine",
            lambda axes: _curve(axes, record["real"]),
        ),
        Panel(title, lambda axes: _curve(axes, simulated)),
    ]


def _curve(axes: Axes, part: Record) -> None:
    points = part["points"]
    alone = points[0]["jobs_per_s"]["median"]
    workers = sorted({point["workers"] for point in points})
    axes.plot(workers, [alone * count for count in workers], color="#999999", linestyle="--", label="linear scaling")
    for servers, color in zip((1, 2), _COLORS, strict=False):
        chosen = [point for point in points if point["servers"] == servers]
        if not chosen:
            continue
        rates = [point["jobs_per_s"] for point in chosen]
        medians = [rate["median"] for rate in rates]
        errors = [[rate["median"] - rate["min"] for rate in rates], [rate["max"] - rate["median"] for rate in rates]]
        label = "one server" if servers == 1 else "two servers, half of the workers each"
        axes.errorbar(
            [point["workers"] for point in chosen], medians, errors, marker="o", capsize=3, color=color, label=label
        )
    axes.set_xlim(workers[0] - 0.5, workers[-1] + 0.5)
    one_server = [point for point in points if point["servers"] == 1]
    axes.set_xticks(
        [point["workers"] for point in one_server],
        [f"{point['workers']}\n{point['limited_by']}\n{point['used_share']['server']:.0%}" for point in one_server],
    )
    axes.set_ylim(0, max(alone * workers[-1], *(point["jobs_per_s"]["max"] for point in points)) * 1.05)
    axes.set_xlabel("worker processes; below, with one server: what limited them, and use of the server's core")
    axes.set_ylabel("jobs/s")
    axes.legend(fontsize=8, loc="upper left")


def _idle_panels(record: Record) -> list[Panel]:
    groups = record["crews"]
    cost = groups[-1]["server_core_share_of_workers"]
    title = f"time to pick up a job; {groups[-1]['workers']} idle workers cost the server {cost:.1%} of a core"

    def bars(axes: Axes) -> None:
        times = {
            f"{group['workers']} idle worker{'s' if group['workers'] > 1 else ''}": [
                group["pickup_ms"][name] for name in _PERCENTILES
            ]
            for group in groups
        }
        _grouped(axes, _PERCENTILES, times, form="{:.2f}")
        axes.set_ylabel("ms from submission to claim")

    return [Panel(title, bars)]


def _footprint_panels(record: Record) -> list[Panel]:
    ready, first = record["ready_s"]["median"], record["first_result_s"]["median"]
    title = f"memory of a worker; ready after {ready:.2f} s, first result after {first:.2f} s"

    def curve(axes: Axes) -> None:
        after = record["resident_mb_after"]
        axes.plot([int(count) for count in after], list(after.values()), marker=".", color=_COLORS[0])
        axes.set_ylim(0, max(after.values()) * 1.2)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("images sorted")
        axes.set_ylabel("resident, MB")

    return [Panel(title, curve)]


def _recovery_panels(record: Record) -> list[Panel]:
    def curve(axes: Axes) -> None:
        points = [(at, p99) for at, p99 in record["window_p99_ms"] if p99 is not None]
        axes.plot([at for at, _ in points], [p99 for _, p99 in points], color=_COLORS[0], linewidth=1)
        axes.axhline(record["before_p99_ms"], color="#444444", linestyle="--", linewidth=1, label="highest before")
        axes.axvspan(-record["overload_s"], 0, color="#eeeeee", label=f"{record['overload_percent']} % load")
        axes.set_xlabel("seconds since the end of the overload")
        axes.set_ylabel("p99 of one second, ms; a gap: some not in time")
        axes.legend(fontsize=8)

    return [Panel(f"recovery from an overload, {_engine_of(record)}", curve)]


def _policies_panels(record: Record) -> list[Panel]:
    return [
        Panel(
            f"share in time by policy: {engine} engine, random arrivals",
            lambda axes, engine=engine: _policy_bars(axes, record, engine),  # type: ignore[misc]
        )
        for engine in record["engines_images_per_s"]
    ]


def _policy_bars(axes: Axes, record: Record, engine: str) -> None:
    cases = [case for case in record["cases"] if case["engine"] == engine and case["arrivals"] == "random"]
    percents = list(dict.fromkeys(case["percent"] for case in cases))
    shares: dict[str, list[float]] = {}
    for case in cases:
        shares.setdefault(case["policy"], []).append(100 * case["in_time_share"])
    _grouped(axes, [f"{percent} %" for percent in percents], shares, form="{:.1f}")
    axes.set_ylabel("% in time")
    axes.set_xlabel("load, % of what the engine does in full batches")


def _swaps_panels(record: Record) -> list[Panel]:
    def bars(axes: Axes) -> None:
        times = {
            name: [record[key][percentile] for percentile in _PERCENTILES]
            for name, key in (("with swaps", "with_swaps_ms"), ("without", "without_swaps_ms"))
        }
        _grouped(axes, _PERCENTILES, times, form="{:.1f}")
        axes.set_ylabel("ms from capture to result")

    return [Panel(f"{record['swaps']} swaps at {record['rate_hz']:g} images/s", bars)]


def _grouped(axes: Axes, labels: Sequence[str], values: dict[str, list[float]], *, form: str) -> None:
    """Bars in groups, each with its value above."""
    width = 0.8 / len(values)
    for number, (name, heights) in enumerate(values.items()):
        places = [place + (number - (len(values) - 1) / 2) * width for place in range(len(labels))]
        bars = axes.bar(places, heights, width, label=name, color=_COLORS[number % len(_COLORS)])
        axes.bar_label(bars, [form.format(height) for height in heights], padding=2, fontsize=7)
    axes.set_xticks(range(len(labels)), list(labels))
    axes.margins(y=0.15)
    axes.grid(False, axis="x")
    axes.legend(fontsize=8)


_PANELS: dict[str, Callable[[Record], list[Panel]]] = {
    "engine": _engine_panels,
    "latency": _latency_panels,
    "scaling": _scaling_panels,
    "idle": _idle_panels,
    "footprint": _footprint_panels,
    "swaps": _swaps_panels,
    "recovery": _recovery_panels,
    "policies": _policies_panels,
}
