"""Makes the simulated source of `sortline camera`, which calls it, from the command's flags."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from producer import display
from producer.sources.base import SimulatedFrames
from shared.errors import BadSetting


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatorFlags:
    """The flags of `sortline camera` that apply only to the simulator. `size` is WIDTHxHEIGHT, pixels."""

    size: str = "640x480"
    quality: int = 85
    seed: int = 0
    pool: int = 240
    replay: int | None = None


def open_simulated(flags: SimulatorFlags, *, line: str, count: int | None, draw_first: bool) -> SimulatedFrames:
    """Open the simulator as the source of a line's camera.

    Args:
        flags: what is drawn.
        line: each line has bottles of its own.
        count: how many frames will be sent; None: without end.
        draw_first: draw all frames that will be sent before returning.

    Raises:
        BadSetting: a flag has a value that can't be used.
    """
    from producer.sources.simulator import SimulatedSource  # imported here because folder cameras don't need NumPy

    pool = flags.replay or flags.pool
    simulated = SimulatedSource(line, seed=flags.seed, size=_parse_size(flags.size), quality=flags.quality, pool=pool)
    if draw_first:
        drawings = pool if count is None else min(pool, count)
        display.with_progress(islice(simulated.draw_all(), drawings), total=drawings, title="drawing bottles")
    return SimulatedFrames(simulated)


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise BadSetting(f"size = {text!r} is not WIDTHxHEIGHT, e.g. 640x480.")
    return int(width), int(height)
