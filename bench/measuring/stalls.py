"""The stalls of the machine itself, from a control that only watches, and how long they delay an image."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.measuring.stall_program import NORMAL, REALTIME
from shared.subprocesses import Child


class Stall(NamedTuple):
    """A time in which a core did not run what should have run, epoch seconds."""

    began_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.ended_at - self.began_at


@dataclass(frozen=True, slots=True)
class Watched:
    """The stalls of all cores, and whether the control had priority over all other programs."""

    stalls: list[Stall]
    priority: str


class StallWatch:
    """The control: a process on each core."""

    def __init__(self, outs: Sequence[Path]) -> None:
        self._outs = outs

    def read(self) -> Watched:
        """What the control has found so far. Stalls that overlap, on several cores, are one."""
        texts = [out.read_text().splitlines() for out in self._outs]
        found = [Stall(*map(float, line.split())) for lines in texts for line in lines[1:]]
        is_realtime = all(lines[:1] == [REALTIME] for lines in texts)
        return Watched(merged(found), REALTIME if is_realtime else NORMAL)


@contextlib.contextmanager
def watch_stalls(folder: Path) -> Iterator[StallWatch]:
    """Run the control for as long as the block lasts."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    outs = [folder / f"stalls-{core}.txt" for core in cores]
    with contextlib.ExitStack() as stack:
        for core, out in zip(cores, outs, strict=True):
            log = out.with_suffix(".log")
            stack.enter_context(Child([str(core)], log=log, out=out, module="bench.measuring.stall_program"))
        yield StallWatch(outs)


def merged(stalls: Sequence[Stall]) -> list[Stall]:
    """The stalls in order, each of those that overlap joined into one."""
    joined: list[Stall] = []
    for stall in sorted(stalls):
        if joined and stall.began_at <= joined[-1].ended_at:
            joined[-1] = Stall(joined[-1].began_at, max(joined[-1].ended_at, stall.ended_at))
        else:
            joined.append(stall)
    return joined


class StallDelays:
    """How long the stalls alone delay an image, if the worker does everything right and sheds nothing.

    A stall of s seconds delays what is in the worker by s. What arrives meanwhile waits too, and the worker works that
    off beside the new images: at a load of 0.8 it catches up by 0.2 s in each second. So the delay of an image that is
    captured at time t is `delay_at(t)`: it rises by s at the beginning of each stall, and falls by (1 - load) in each
    second, also during the stall, as later images wait for less of it.
    """

    def __init__(self, stalls: Sequence[Stall], *, load: float) -> None:
        """`stalls` in order; `load` is the share of the worker's capacity that is asked for, below 1."""
        self._stalls = stalls
        self._falls = 1 - load
        self._after: list[float] = []  # the delay right after the beginning of each stall
        for stall in stalls:
            self._after.append(self.delay_at(stall.began_at) + stall.seconds)

    def delay_at(self, at: float) -> float:
        """The delay in seconds of an image that is captured at this time, by the stalls that began before."""
        known = len(self._after)
        index = _count_before(self._stalls[:known], at) - 1
        return 0.0 if index < 0 else max(0.0, self._after[index] - self._falls * (at - self._stalls[index].began_at))

    def delay_of(self, captured_at: float, ended_at: float) -> float:
        """The delay in seconds of an image in its time from capture to result: also by stalls that began meanwhile."""
        first, last = _count_before(self._stalls, captured_at), _count_before(self._stalls, ended_at)
        return self.delay_at(captured_at) + sum(stall.seconds for stall in self._stalls[first:last])


def _count_before(stalls: Sequence[Stall], at: float) -> int:
    """How many of the ordered stalls began before this time."""
    low, high = 0, len(stalls)
    while low < high:
        middle = (low + high) // 2
        if stalls[middle].began_at < at:
            low = middle + 1
        else:
            high = middle
    return low


def stolen_s() -> float | None:
    """Seconds, over all cores and since the start, that the host ran something else in; None if it isn't told."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None
