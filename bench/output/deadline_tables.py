"""The tables of the benchmarks about deadlines, overload and bounds."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from bench.measuring.record import Record
from bench.output.cells import counts, milliseconds, ratio, share, spread_cells
from shared.tables import print_facts, print_table

# Cameras that sent less than this part of what they were asked for did not keep up.
_KEPT_UP = 0.95
# More than this share of the cores for other programs makes figures about deadlines worthless.
_NOTABLE_SHARE = 0.05


def _latency(console: Console, record: Record) -> None:
    """Two tables: the times, and the rates in time with the shares of the cores. One table would be too wide."""
    times = [_times_row(load) for load in record["loads"]]
    rates = [_rates_row(load) for load in record["loads"]]
    capacity = record["capacity_images_per_s"]["median"]
    title = (
        f"{record['benchmark']} engine: {record['size']}, deadline {record['deadline_ms']:g} ms, load as share of "
        f"{capacity:,.0f} images/s; times of all results, expired included"
    )
    headings = ("load", "asked /s", "sent /s", "p50 ms", "p95 ms", "p99 ms", "max ms", "in time")
    print_table(console, headings, times, title=title)
    headings = (
        "load",
        "in time /s",
        "of capacity",
        "of the best load",
        "cameras' share",
        "server's share",
        "left for worker",
        "of what cameras leave",
    )
    title = f"{record['benchmark']} engine: rates in time, and the shares of this machine's cores"
    print_table(console, headings, rates, title=title)
    _latency_notes(console, record)


def _times_row(load: Record) -> list[str]:
    ms = load["capture_to_result_ms"]
    return [
        f"{load['percent']} %",
        f"{load['asked_images_per_s']:,.0f}",
        f"{load['achieved_images_per_s']:,.0f}",
        *(milliseconds(ms[name]) for name in ("p50", "p95", "p99", "max")),
        f"{load['sorted_share']:.1%}",
    ]


def _rates_row(load: Record) -> list[str]:
    cores = load["share_of_cores"]
    return [
        f"{load['percent']} %",
        f"{load['sorted_images_per_s']['median']:,.0f}",
        ratio(load["sorted_to_capacity"]),
        ratio(load["sorted_to_best"]),
        *(share(cores[name]) for name in ("cameras", "server", "left_for_worker")),
        ratio(load["sorted_to_what_cameras_leave"]),
    ]


def _latency_notes(console: Console, record: Record) -> None:
    """What became of the images that were not in time, and what makes a load's figures doubtful."""
    for load in record["loads"]:
        lost = {name: count for name, count in load["outcomes"].items() if name != "sorted"}
        if load["achieved_images_per_s"] < _KEPT_UP * load["asked_images_per_s"]:
            console.print(f"at {load['percent']} % the cameras could not keep up: the load was lower")
        if (load["share_of_cores"]["others"] or 0.0) > _NOTABLE_SHARE:
            console.print(f"at {load['percent']} % other programs took {share(load['share_of_cores']['others'])}")
        if any(lost.values()) or load["refused"]:
            console.print(f"not in time at {load['percent']} %: {counts(lost)}; refused: {counts(load['refused'])}")


def _recovery(console: Console, record: Record) -> None:
    during, seconds = record["during_p99_ms"], record["recovery_s"]
    facts = [
        ["p99 of one second before, at most", f"{milliseconds(record['before_p99_ms'])} ms"],
        ["at most during the overload", "some not in time" if during is None else f"{milliseconds(during)} ms"],
        ["back after the overload's end", "not back" if seconds is None else f"{seconds:.1f} s"],
    ]
    title = (
        f"{record['benchmark']} engine: {record['steady_percent']} % of {record['capacity_images_per_s']:,.0f}/s, "
        f"then {record['overload_percent']} % for {record['overload_s']:g} s"
    )
    print_facts(console, facts, title=title)


def _steady(console: Console, record: Record) -> None:
    times, control = record["capture_to_result_ms"], record["control"]
    stolen = "unknown" if control["stolen_s"] is None else f"{control['stolen_s']:g} s"
    facts = [
        ["p50, p99, max", ", ".join(f"{milliseconds(times[name])} ms" for name in ("p50", "p99", "max"))],
        ["not in time", counts({name: n for name, n in record["outcomes"].items() if name != "sorted"})],
        ["refused", counts(record["refused"])],
        ["misses", f"{record['misses']:,} ({record['misses_share']:.3%})"],
        ["the control's misses", f"{record['control_misses']:,}"],
        [
            "misses beyond the control's",
            f"{record['misses_beyond_control']:,} ({record['misses_beyond_control_share']:.3%})",
        ],
        [
            "the machine's stalls",
            f"{control['stalls']:,}, {control['stalled_s']:g} s in all, the longest {control['longest_stall_ms']:g} ms",
        ],
        ["taken by the host", stolen],
        ["other programs' share of the cores", share(record["others_share_of_cores"])],
        ["the control's priority", control["priority"]],
    ]
    title = (
        f"steady: {record['frames']:,} images at {record['percent']} % of {record['capacity_images_per_s']:,.0f}/s, "
        f"deadline {record['deadline_ms']:g} ms"
    )
    print_facts(console, facts, title=title)


def _memory(console: Console, record: Record) -> None:
    rows = [
        [
            f"{case['image_bytes'] / 1000:,.0f} KB",
            "with" if case["worker"] else "without",
            f"{case['pushed']:,}",
            f"{case['accepted']:,}",
            f"{case['peak_mb']:,.0f}",
            f"{case['finished_mb']:,.0f}",
            f"{case['peak_without_finished_mb']:,.0f}",
            f"{case['peak_to_bound']:.2f}",
        ]
        for case in record["cases"]
    ]
    headings = (
        "images",
        "a worker",
        "pushed",
        "accepted",
        "peak MB",
        "finished MB",
        "peak without MB",
        "of the bound",
    )
    title = f"memory of the server: {record['producers']} producers, bound {record['bound_mb']:,.0f} MB"
    print_table(console, headings, rows, title=title, text=(0, 1))
    for case in record["cases"]:
        worker = "with a worker" if case["worker"] else "without a worker"
        broken = "; ENDED EARLY, as the bound was broken" if case["ended_as_bound_was_broken"] else ""
        console.print(f"{case['image_bytes']:,} bytes, {worker}: refused: {counts(case['refused'])}{broken}")


def _policies(console: Console, record: Record) -> None:
    rows = []
    for case in record["cases"]:
        times = case["in_time_ms"]
        rows.append(
            [
                case["engine"],
                case["arrivals"],
                case["policy"],
                f"{case['percent']} %",
                f"{case['in_time_share']:.1%}",
                f"{case['in_time_per_s']:,.0f}",
                f"{case['batch_mean']:.1f}",
                "-" if times is None else milliseconds(times["p99"]),
            ]
        )
    rates = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in record["engines_images_per_s"].items())
    title = (
        f"policies: engines in full batches of {record['max_batch']}: {rates}; deadline {record['deadline_ms']:g} ms, "
        f"fixed linger {record['linger_ms']:g} ms"
    )
    headings = ("engine", "arrivals", "policy", "load", "in time", "in time /s", "mean batch", "p99 ms of these")
    print_table(console, headings, rows, title=title, text=(0, 1, 2))


def _shed(console: Console, record: Record) -> None:
    rows = [
        [what.replace("_", " "), who, *spread_cells(figures, form=",.1f")]
        for what in ("expired", "refused", "refused_by_deadline")
        for who, figures in record[f"{what}_us_per_image"].items()
    ]
    rows.append(["expired", "images/s", *spread_cells(record["expired_per_s"])])
    title = f"shed: processor time of {record['images']:,} images, µs each"
    print_table(console, ("image is", "time of", "median", "min-max"), rows, title=title, text=(0, 1))
    console.print(f"refused: {counts(record['refused'])}")


DEADLINE_TABLES: dict[str, Callable[[Console, Record], None]] = {
    "latency": _latency,
    "recovery": _recovery,
    "steady": _steady,
    "memory": _memory,
    "policies": _policies,
    "shed": _shed,
}
