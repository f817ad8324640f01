"""The rate at which frames arrive at a queue: a count that decays, kept in the queue's `keys.flow` hash.

shared/server/functions/admission.lua writes the count. It covers about the last half minute, so that a scrape every 15
seconds misses nothing.
"""

from __future__ import annotations

import math

# Frames count less and less with age: after this many seconds, 1/e. admission.lua has the same number.
DECAY_S = 15.0


def arrival_rate(*, arrived: float, arrived_for: float, arrived_at: float, now: float) -> float:
    """Frames per second at the server's time `now`; 0 if none arrived yet.

    Args:
        arrived: how many frames arrived, each weighted by its age at the time `arrived_at`.
        arrived_for: the seconds since the first frame, weighted in the same way; it makes the rate right from the
            start, when it covers less than DECAY_S.
        arrived_at: server's time of the last arrival, epoch seconds.
    """
    decay = math.exp(-max(0.0, now - arrived_at) / DECAY_S)
    weight_s = arrived_for * decay + DECAY_S * (1 - decay)
    return arrived * decay / weight_s if weight_s > 0 else 0.0
