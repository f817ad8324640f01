"""What a queue's refusal means for the producer: why, what helps, and when to try again.

Called by cameras and the uploader after `QueueFull`.
"""

from __future__ import annotations

from shared.errors import Bound, QueueFull
from shared.settings import Settings

# The limits of a pause: a shorter one would only ask again in vain, and after a longer one places that became free
# earlier than expected would stay empty.
MIN_PAUSE_S = 0.05
MAX_PAUSE_S = 5.0

# By reason, what is wrong and how to fix it. The refusal itself gives the figures, but only of its first reason.
EXPLANATIONS = {
    Bound.ITEMS: "the queue holds as many jobs as it may. Add workers, slow down, or raise queue_max_items.",
    Bound.BYTES: "the queue's images take as many bytes as they may. Add workers, send smaller images, or raise "
    "queue_max_bytes.",
    Bound.WAIT: "a new job would wait longer than it may. Add workers, slow down, or raise queue_max_wait_s.",
    Bound.LINE: "this line uses its part of the queue. Slow it down, add workers, or raise line_share.",
    Bound.DEADLINE: "they could not be answered by their deadlines. Add workers, slow down, or allow more time.",
    Bound.MEMORY: "the Redis server's memory is full. docs/sizing.md says what takes it and what helps.",
}


def pause_s(error: QueueFull) -> float:
    """Seconds to wait before trying again."""
    return min(max(MIN_PAUSE_S, error.retry_after_s), MAX_PAUSE_S)


def explain(error: QueueFull, bound: Bound) -> str:
    """Why jobs were refused for this reason, and what helps: with figures, if the error names them."""
    return str(error) if bound is error.bound else EXPLANATIONS[bound]


def awaited(bound: Bound, settings: Settings) -> str:
    """What an uploader waits for, in a few words that follow "waiting: "."""
    share = "" if settings.line_share == 1 else f" {settings.line_share:.0%} of"
    return {
        Bound.ITEMS: f"queue holds {settings.queue_max_items:,} images",
        Bound.BYTES: f"queue holds {settings.queue_max_bytes / 1e6:,.4g} MB",
        Bound.WAIT: f"queue is {settings.queue_max_wait_s:,g} s long",
        Bound.LINE: f"line holds{share} the queue",
        Bound.DEADLINE: "queue too slow for the deadline",
        Bound.MEMORY: "server memory full",
    }[bound]
