"""Whose share of the cores is whose: samples the processor time of groups of processes while traffic is sent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# Processor seconds that a group has used so far; None once its processes are gone, or where the system doesn't say.
CpuSource = Callable[[], float | None]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the name: user, system, and both of the children that ended and were waited for.
_TIMES = slice(11, 15)
# Fields of the first line of /proc/stat: user, nice, system, both kinds of interrupts, and what the host took.
_BUSY = (1, 2, 3, 6, 7, 8)


def tree_cpu_s(pid: int) -> float | None:
    """Processor time (user and system) of a process and all its descendants, in seconds, in steps of 10 ms.

    It never falls: the time of a descendant that ended counts in its parent. None if there is no such process.
    """
    own = _cpu_s(pid)
    return None if own is None else own + sum(tree_cpu_s(child) or 0.0 for child in _children(pid))


def busy_s() -> float | None:
    """Seconds that the cores of this machine were busy with anything, added up over all cores, since its start."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return sum(int(fields[index]) for index in _BUSY) / _TICKS_PER_S
    except (OSError, IndexError, ValueError):
        return None


def _cpu_s(pid: int) -> float | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return sum(map(int, text.rpartition(")")[2].split()[_TIMES])) / _TICKS_PER_S


def _children(pid: int) -> list[int]:
    """A process's children are listed by the thread that started them."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    except OSError:  # it has ended, or the kernel keeps no such lists
        pass
    return found


def others_share(cores_used: Mapping[str, float], *, cores: int) -> float | None:
    """The share of the cores that programs took which are not in `cores_used`, and the host; None if it isn't known.

    `cores_used` has all groups of processes that belong to the benchmark, and `all`, from `busy_s`.
    """
    if "all" not in cores_used:
        return None
    own = sum(used for name, used in cores_used.items() if name != "all")
    return max(0.0, cores_used["all"] - own) / cores


class CpuSampler:
    """Keeps samples of all sources, taken whenever its owner asks for one, e.g. ten times a second."""

    def __init__(self, sources: Mapping[str, CpuSource], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`sources` by name."""
        self._sources = sources
        self._clock = clock
        self._samples: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}

    def sample(self) -> None:
        """Read all sources now."""
        for name, source in self._sources.items():
            if (cpu_s := source()) is not None:
                self._samples[name].append((self._clock(), cpu_s))

    def cores_used(self, name: str, *, began_at: float, ended_at: float) -> float | None:
        """How many cores the source has used on average between two times of the clock; None if it isn't known.

        Of samples near the ends only those inside count: a process that draws its frames before the beginning, and
        takes down its interpreter after the end, did other work then.
        """
        samples = self._samples[name]
        inside = [sample for sample in samples if began_at <= sample[0] <= ended_at]
        if len(inside) < 2:  # a very short time: the nearest samples around it
            inside = [*[sample for sample in samples if sample[0] < began_at][-1:], *inside]
            inside += [sample for sample in samples if sample[0] > ended_at][:1]
        if len(inside) < 2:
            return None
        (first_at, first_s), (last_at, last_s) = inside[0], inside[-1]
        return (last_s - first_s) / (last_at - first_at)
