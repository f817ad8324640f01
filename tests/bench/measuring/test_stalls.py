"""The machine's stalls: read from the control, joined, and what they delay."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from bench.measuring import stall_program, stalls
from bench.measuring.stalls import Stall, StallDelays, StallWatch, merged, stolen_s, watch_stalls
from tests.kit import wait_until


def test_stalls_that_overlap_on_several_cores_are_one() -> None:
    found = [Stall(5.0, 5.1), Stall(1.0, 2.0), Stall(1.5, 2.5), Stall(1.6, 1.7)]
    assert merged(found) == [Stall(1.0, 2.5), Stall(5.0, 5.1)]
    assert merged([]) == []


def test_a_delay_is_a_stalls_length_at_its_beginning_and_falls_as_a_worker_catches_up() -> None:
    """At a load of 0.5 half of the time is left to catch up: a stall of 1 s is made up for after 2 s."""
    delays = StallDelays([Stall(10.0, 11.0)], load=0.5)
    assert [delays.delay_at(at) for at in (9.0, 10.5, 11.0, 11.5, 12.0, 15.0)] == [0.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_a_stall_before_the_worker_has_caught_up_adds_to_what_is_left() -> None:
    delays = StallDelays([Stall(10.0, 11.0), Stall(11.5, 12.0)], load=0.5)
    assert delays.delay_at(12.0) == pytest.approx(0.25 + 0.5 - 0.25)


def test_an_image_is_delayed_by_what_was_there_and_by_what_began_before_its_result() -> None:
    delays = StallDelays([Stall(10.0, 11.0), Stall(11.5, 12.0), Stall(20.0, 21.0)], load=0.5)
    assert delays.delay_of(9.9, 11.2) == pytest.approx(1.0)
    assert delays.delay_of(11.25, 12.5) == pytest.approx(0.375 + 0.5)
    assert delays.delay_of(13.6, 19.0) == 0.0


def test_the_control_reports_its_priority_and_each_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outs = [tmp_path / "one.txt", tmp_path / "two.txt"]
    outs[0].write_text("realtime\n1.0 1.5\n9.0 9.25\n")
    outs[1].write_text("realtime\n1.25 2.0\n")
    watched = StallWatch(outs).read()
    assert watched.priority == stall_program.REALTIME
    assert watched.stalls == [Stall(1.0, 2.0), Stall(9.0, 9.25)]
    outs[1].write_text("normal\n")
    assert StallWatch(outs).read().priority == stall_program.NORMAL


def test_the_control_runs_on_each_core_and_finds_that_its_process_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process stands still, as on a machine that stalls."""
    pids: list[int] = []
    started = stalls.Child

    def child(*arguments: object, **options: object) -> stalls.Child:
        made = started(*arguments, **options)  # type: ignore[arg-type]
        pids.append(made.pid)
        return made

    monkeypatch.setattr(stalls, "Child", child)
    with watch_stalls(tmp_path) as watch:
        outs = sorted(tmp_path.glob("stalls-*.txt"))
        assert len(outs) == len(pids) >= 1
        wait_until(lambda: all(out.read_text() for out in outs), "the control is up")
        controls = [_child_of(pid) for pid in pids]
        began_at = time.time()
        _stop_for(controls[0], seconds=0.3)
        wait_until(
            lambda: any(stall.ended_at > began_at + 0.2 for stall in watch.read().stalls), "the control reports it"
        )
    longest = max(watch.read().stalls, key=lambda stall: stall.seconds)
    assert longest.seconds >= 0.25


def _child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _stop_for(pid: int, *, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


def test_the_hosts_own_count_only_grows() -> None:
    before = stolen_s()
    after = stolen_s()
    assert before is not None
    assert after is not None
    assert 0 <= before <= after
