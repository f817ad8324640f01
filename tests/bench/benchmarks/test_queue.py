"""What `bench queue` makes of its contenders' rates."""

from __future__ import annotations

from bench.benchmarks.queue import figures


def test_the_ratios_say_how_many_times_faster_sortline_and_its_second_worker_make_it() -> None:
    found = figures(
        {
            "sortline": [2000.0, 1000.0, 3000.0],
            "sortline_two_workers": [3000.0, 3600.0, 1.0],
            "bare_scripts": [2500.0],
            "rq_simple_worker": [20.0],
        }
    )
    assert found["sortline_two_workers_jobs_per_s"] == {"median": 3000.0, "min": 1.0, "max": 3600.0}
    assert {name: ratio for name, ratio in found.items() if name.startswith("ratio")} == {
        "ratio_to_bare_scripts": 0.8,
        "ratio_to_rq_simple_worker": 100.0,
        "ratio_two_to_one": 1.5,
    }
