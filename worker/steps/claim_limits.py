"""How many jobs a claim may take, of which queues, and how many a worker may hold. Pure."""

from __future__ import annotations

from typing import NamedTuple

from worker.state.pixel_buffer import BATCHES_HELD

# A worker claims nothing more from the other queues while this many batches of costly jobs wait in it. If it held more,
# other workers could not help.
MAX_COSTLY_BATCHES = 4


class ClaimBounds(NamedTuple):
    """How many jobs a worker may hold at this moment."""

    capacity: int  # of any queue
    room: int  # more, of the most urgent queue alone
    takes_others: bool  # whether jobs of the other queues may be claimed at all


class ClaimLimits(NamedTuple):
    """What the next claim may take."""

    jobs: int  # none if it is not above 0
    max_others: int  # of them, of the queues other than the most urgent one


def claim_bounds(*, enough: int | None, max_batch: int, has_others: bool, costly: int = 0) -> ClaimBounds:
    """How many jobs may be held.

    Args:
        enough: how many keep engine and decoders busy, if that is known. More would age in the worker, where no other
            worker can take them, and where giving one up costs more than in its queue.
        max_batch: the most images in a batch.
        has_others: whether the worker serves several queues; then it keeps room for one batch of the most urgent one.
        costly: how many costly jobs wait. They need no thread and no pixels yet, so they take no place.
    """
    most = BATCHES_HELD * max_batch
    places = most if enough is None else min(enough, most)
    max_costly = MAX_COSTLY_BATCHES * max_batch
    return ClaimBounds(
        capacity=places + min(costly, max_costly + places),
        room=min(max_batch, places) if has_others else 0,
        takes_others=costly < max_costly,
    )


def claim_limits(bounds: ClaimBounds, *, held: int, urgent_held: int, max_batch: int) -> ClaimLimits:
    """What the next claim may take, if so many jobs take places, and so many of them are of the most urgent queue.

    The room for urgent jobs stays free of the others even if the worker holds more of these than it may hold by now.
    """
    capacity, room, takes_others = bounds
    free = max(min(capacity + room - held, capacity - urgent_held), room - urgent_held)
    return ClaimLimits(min(free, max_batch), max(0, capacity - held) if takes_others else 0)


def max_answered(max_batch: int) -> int:
    """A worker claims nothing while it holds this many jobs whose results are not written yet.

    At least two batches and what a claim sets apart: the results of one batch must not keep the next one from coming.
    """
    return max(256, 2 * max_batch + 128)
