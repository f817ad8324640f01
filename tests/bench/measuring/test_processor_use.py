"""Whose share of the cores is whose."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.measuring.processor_use import CpuSampler, busy_s, others_share, tree_cpu_s

# Uses a tenth of a second of processor time, in a child that has ended, and in itself; then waits for its input.
BUSY = """
import subprocess, sys, time
def work():
    while time.process_time() < 0.1: pass
if len(sys.argv) > 1: work()
else:
    subprocess.run([sys.executable, __file__, "child"]); work(); print("done", flush=True); sys.stdin.read()
"""


def test_the_time_of_a_process_covers_its_children_also_those_that_have_ended(tmp_path: os.PathLike[str]) -> None:
    program = os.path.join(tmp_path, "busy.py")
    with open(program, "w") as file:
        file.write(BUSY)
    with subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        used_s = tree_cpu_s(process.pid)
        assert used_s is not None
        assert used_s >= 0.18
        of_parent = tree_cpu_s(os.getpid())
        assert of_parent is not None
        assert of_parent >= used_s  # a child that runs counts in its parent
    assert tree_cpu_s(process.pid) is None


def test_the_cores_used_are_those_of_the_window() -> None:
    """A process that works before the window and after it, as a camera that draws frames and then ends."""
    now = 0.0
    used_s: dict[str, float | None] = {"camera": 0.0}
    sampler = CpuSampler({"camera": lambda: used_s["camera"]}, clock=lambda: now)
    for at, value in ((0.0, 0.0), (1.0, 1.0), (2.0, 1.25), (3.0, 1.5), (4.0, 2.5), (5.0, None)):
        now, used_s["camera"] = at, value
        sampler.sample()
    assert sampler.cores_used("camera", began_at=1.0, ended_at=3.0) == 0.25
    assert sampler.cores_used("camera", began_at=0.9, ended_at=3.2) == 0.25
    # Shorter than the time between two samples: the nearest ones are taken.
    assert sampler.cores_used("camera", began_at=3.1, ended_at=3.2) == 1.0
    assert sampler.cores_used("camera", began_at=4.5, ended_at=4.6) is None


def test_a_single_sample_tells_nothing() -> None:
    sampler = CpuSampler({"one": lambda: 1.0}, clock=lambda: 0.5)
    assert sampler.cores_used("one", began_at=0.0, ended_at=1.0) is None
    sampler.sample()
    assert sampler.cores_used("one", began_at=0.0, ended_at=1.0) is None


def test_the_others_share_is_what_nobody_of_the_run_has_used() -> None:
    assert others_share({"all": 1.5, "cameras": 0.5, "worker": 0.75}, cores=2) == 0.125
    assert others_share({"all": 1.0, "cameras": 1.25}, cores=2) == 0.0
    assert others_share({"cameras": 0.5}, cores=2) is None
    before = busy_s()
    assert before is not None
    assert before > 0


@pytest.mark.parametrize("pid", [2**22 + 1])
def test_a_process_that_does_not_exist_has_no_time(pid: int) -> None:
    assert tree_cpu_s(pid) is None
