"""The plot and the tables, from made-up records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.measuring.machine import describe_machine
from bench.output import plot
from bench.output.plot import draw
from bench.output.tables import machine_line, print_tables
from shared.errors import NotFound

TIMES = {"images": 10, "p50": 5.0, "p95": 9.0, "p99": 12.0, "max": 20.0}


def rates(median: float) -> dict[str, float]:
    return {"median": median, "min": median * 0.9, "max": median * 1.1}


def line(size: str) -> dict[str, Any]:
    return {
        "benchmark": f"line {size}",
        "no_queue_images_per_s": rates(100),
        "sortline_images_per_s": rates(95),
        "rq_simple_worker_images_per_s": rates(25),
        "ratio_to_no_queue": 0.95,
        "ratio_to_rq_simple_worker": 3.8,
        "left_out": {"mosec": "pip install 'sortline[peers]'"},
    }


def load(percent: int, **outcomes: int) -> dict[str, Any]:
    none = dict.fromkeys(("sorted", "late", "expired", "rejected", "failed"), 0)
    refused = {"items": outcomes.pop("refused")} if "refused" in outcomes else {}
    frames = sum(outcomes.values()) + sum(refused.values())
    return {
        "percent": percent,
        "asked_images_per_s": float(percent),
        "achieved_images_per_s": float(percent),
        "frames": frames,
        "capture_to_result_ms": TIMES,
        "outcomes": none | outcomes,
        "refused": refused,
        "sorted_share": outcomes.get("sorted", 0) / frames,
        "sorted_images_per_s": rates(40),
        "sorted_to_capacity": 0.4,
        "sorted_to_best": 0.9,
        "share_of_cores": {"cameras": 0.2, "server": 0.1, "worker": 0.6, "others": 0.07, "left_for_worker": 0.7},
        "sorted_to_what_cameras_leave": 0.55,
    }


def point(workers: int, servers: int, rate: float) -> dict[str, Any]:
    return {
        "workers": workers,
        "servers": servers,
        "jobs_per_s": rates(rate),
        "ratio_to_one_worker": 1.0,
        "server_us_per_job": 40.0,
        "worker_us_per_job": 100.0,
        "used_share": {"server": 0.2, "cores": 0.9},
        "limited_by": "cores",
    }


def group(workers: int) -> dict[str, Any]:
    return {
        "workers": workers,
        "server": {"core_share": 0.02, "commands_per_s": 30.0},
        "pickup_ms": TIMES,
        "capture_to_result_ms": TIMES,
        "server_core_share_of_workers": 0.01,
    }


RECORDS: list[dict[str, Any]] = [
    {
        "benchmark": "engine",
        "model": "tiny@1",
        "input_size_px": 32,
        "images_per_s": {"litert": {"1": rates(10), "4": rates(20)}, "tensorflow": {"1": rates(5), "4": rates(8)}},
        "ratio_to_best": {"litert": {"1": 0.5, "4": 1.0}, "tensorflow": {"1": 0.25, "4": 0.4}},
    },
    line("224x224"),
    line("640x480"),
    {"benchmark": "queue", "sortline_jobs_per_s": rates(9000), "ratio_to_bare_scripts": 0.9, "ratio_two_to_one": 1.2},
    {
        "benchmark": "latency real",
        "size": "640x480",
        "deadline_ms": 150.0,
        "capacity_images_per_s": rates(100),
        "loads": [load(25, sorted=10), load(300, sorted=2, expired=6, refused=2)],
    },
    {
        "benchmark": "scaling",
        "model": "tiny",
        "real": {"size": "640x480", "points": [point(1, 1, 100), point(2, 1, 110)]},
        "simulated": {
            "batch_ms": 10.0,
            "image_ms": 0.1,
            "points": [point(1, 1, 900), point(2, 1, 1700), point(2, 2, 1800)],
        },
    },
    {"benchmark": "idle", "crews": [group(1), group(100)]},
    {
        "benchmark": "footprint",
        "size": "640x480",
        "images": 2000,
        "images_per_s": 90.0,
        "ready_s": rates(0.7),
        "first_result_s": rates(0.8),
        "resident_mb": {"first": 120.0, "last": 121.0, "most": 121.0},
        "resident_mb_after": {"1000": 120.0, "2000": 121.0},
    },
    {
        "benchmark": "swaps",
        "swaps": 5,
        "rate_hz": 40.0,
        "images": 500,
        "failed": 0,
        "lost": 0,
        "doubled": 0,
        "with_swaps_ms": TIMES,
        "without_swaps_ms": TIMES,
        "reached_s": {"median": 1.0, "max": 2.0},
    },
    {
        "benchmark": "recovery simulated",
        "deadline_ms": 150.0,
        "capacity_images_per_s": 198.0,
        "steady_percent": 50,
        "overload_percent": 300,
        "overload_s": 60.0,
        "before_p99_ms": 12.0,
        "during_p99_ms": None,
        "recovery_s": 0.7,
        "window_p99_ms": [[-61.0, 11.0], [-10.0, None], [0.7, 12.0]],
    },
    {
        "benchmark": "steady",
        "percent": 80,
        "frames": 200_000,
        "deadline_ms": 150.0,
        "capacity_images_per_s": 430.0,
        "capture_to_result_ms": TIMES,
        "outcomes": {"sorted": 199_990, "late": 4, "expired": 6},
        "refused": {"deadline": 3},
        "misses": 13,
        "misses_share": 0.00007,
        "control_misses": 9,
        "misses_beyond_control": 5,
        "misses_beyond_control_share": 0.00003,
        "control": {
            "priority": "realtime",
            "stalls": 3,
            "stalled_s": 0.4,
            "longest_stall_ms": 180.0,
            "stolen_s": 1.5,
        },
        "others_share_of_cores": 0.01,
    },
    {
        "benchmark": "memory",
        "producers": 2,
        "bound_mb": 660.0,
        "cases": [
            {
                "image_bytes": 5_000_000,
                "worker": with_worker,
                "pushed": 123_456,
                "accepted": 100,
                "refused": {"bytes": 123_356},
                "peak_mb": 534.5,
                "finished_mb": 10.0,
                "peak_without_finished_mb": 524.5,
                "peak_to_bound": 0.8,
                "ended_as_bound_was_broken": with_worker,
            }
            for with_worker in (False, True)
        ],
    },
    {
        "benchmark": "policies",
        "max_batch": 16,
        "deadline_ms": 150.0,
        "linger_ms": 10.0,
        "engines_images_per_s": {"fixed rate": 200.0, "GPU-like": 1379.3},
        "cases": [
            {
                "engine": engine,
                "arrivals": "random",
                "percent": 150,
                "policy": policy,
                "in_time_share": 0.67,
                "in_time_per_s": 201.0,
                "batch_mean": 11.1,
                "in_time_ms": times,
            }
            for engine in ("fixed rate", "GPU-like")
            for policy, times in (("fixed batch", None), ("sortline", TIMES))
        ],
    },
    {
        "benchmark": "shed",
        "images": 20_000,
        "expired_us_per_image": {"worker": rates(30), "server": rates(20), "both": rates(50)},
        "expired_per_s": rates(20_000),
        "refused_us_per_image": {"camera": rates(60), "server": rates(10), "both": rates(70)},
        "refused_by_deadline_us_per_image": {"camera": rates(40), "server": rates(12), "both": rates(52)},
        "refused": {"items": 60_000, "deadline": 60_000},
    },
]
MACHINE = describe_machine() | {"server": "valkey 9.1.2"}


@pytest.mark.slow
def test_the_plot_is_a_png_with_a_panel_for_each_that_was_run(tmp_path: Path) -> None:
    titles = draw({"machine": MACHINE, "benchmarks": RECORDS}, tmp_path / "all.png")
    # All sizes of `line` share a panel; latency, scaling and policies have two each; three have none.
    assert len(titles) == len(set(titles)) == len(RECORDS) - 1 + 3 - 3
    assert any(title.startswith("capture to result (expired included)") for title in titles)
    with Image.open(tmp_path / "all.png") as image:
        assert image.format == "PNG"
        everything = image.size
        assert len(image.convert("RGB").getcolors(image.width * image.height) or []) > 10
    (only,) = draw({"machine": MACHINE, "benchmarks": RECORDS[6:7]}, tmp_path / "one.png")
    assert "100 idle workers cost the server 1.0% of a core" in only
    with Image.open(tmp_path / "one.png") as image:
        assert image.width < everything[0]
        assert image.height < everything[1]


def test_what_has_no_picture_makes_no_file(tmp_path: Path) -> None:
    (shed,) = [record for record in RECORDS if record["benchmark"] == "shed"]
    assert draw({"machine": MACHINE, "benchmarks": [shed]}, tmp_path / "none.png") == []
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_fix_is_named_and_nothing_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "matplotlib_installed", lambda: False)
    with pytest.raises(NotFound, match=r"pip install 'sortline\[train\]'"):
        draw({"machine": MACHINE, "benchmarks": RECORDS}, tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


def test_the_tables_show_every_benchmark_and_what_was_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_tables(MACHINE, RECORDS)
    shown = capsys.readouterr().out
    for words in (
        "3.8 x",
        "tiny@1 at 32 px",
        "0.25",
        "expired 6; refused: items 2",
        "at 300 % other programs took 7%",
        "misses beyond the control's",
        "some not in time",
        "with a worker: refused: bytes 123,356; ENDED EARLY",
        "deadline 60,000",
        "simulated",
        "1.00%",
        "121",
        "5 swaps",
    ):
        assert words in shown
    assert "times of all results, expired included" in " ".join(shown.split())
    assert shown.count("mosec is left out: pip install 'sortline[peers]'") == 2
    assert "ratio two to one: 1.2" in shown


def test_the_machine_is_described_with_all_that_a_reader_asks() -> None:
    assert MACHINE["cores"] > 0
    assert MACHINE["memory_gb"] > 0
    assert MACHINE["load_before"] >= 0
    assert {"cpu", "system", "python", "rq", "redis", "ai-edge-litert", "numpy", "pillow"} <= MACHINE.keys()
    assert "valkey 9.1.2" in machine_line(MACHINE)
