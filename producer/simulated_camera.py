"""Makes the simulated source of `sortline camera`, which calls it, from the command's flags."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from producer import display
from producer.sources.base import SimulatedFrames
from shared.errors import BadSetting

# Above this rate the frames are drawn before the camera starts. Drawing one takes about 20 ms of a core, which a worker
# on the same machine would lack.
_DRAW_AHEAD_HZ = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatorFlags:
    """The flags of `sortline camera` that apply only to the simulator. `size` is WIDTHxHEIGHT, pixels."""

    size: str = "640x480"
    quality: int = 85
    seed: int = 0
    pool: int = 240
    replay: int | None = None


def open_simulated(flags: SimulatorFlags, *, line: str, count: int | None, rate_hz: float) -> SimulatedFrames:
    """Open the simulator as the source of a line's camera. At all but low rates, draws the frames before returning.

    Args:
        flags: what is drawn.
        line: each line has bottles of its own.
        count: how many frames will be sent; None: without end.
        rate_hz: how many frames are sent per second; 0: as fast as possible.

    Raises:
        BadSetting: a flag has a value that can't be used.
    """
    from producer.sources.simulator import SimulatedSource  # imported here because folder cameras don't need NumPy

    pool = flags.replay or flags.pool
    simulated = SimulatedSource(line, seed=flags.seed, size=_parse_size(flags.size), quality=flags.quality, pool=pool)
    if flags.replay is not None or not 0 < rate_hz <= _DRAW_AHEAD_HZ:
        drawings = pool if count is None else min(pool, count)
        display.with_progress(islice(simulated.draw_all(), drawings), total=drawings, title="drawing bottles")
    return SimulatedFrames(simulated)


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise BadSetting(f"size = {text!r} is not WIDTHxHEIGHT, e.g. 640x480.")
    return int(width), int(height)
