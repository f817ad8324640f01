"""Compare: the second model's look at images that were answered already, while a canary is tried.

In: items on their way to finish, with their rows. Out: `Comparison`s. All of it runs on the first inference thread, to
which the engines belong while a canary is tried, in pieces of a few milliseconds, and only where no deadline can be
lost by it:
  - after the batch's results were handed on;
  - while no full batch with a deadline waits, and what waits can wait for this piece (`Batcher.spare_s`);
  - while the results of the last seconds had more than twice the piece's time left: what arrives during a piece
    waits for its end, and then for a batch.
What doesn't get its turn is skipped and counted. Without deadlines a busy worker still runs one piece per batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from shared.errors import EngineFailed
from worker.canary.tally import Answer, Comparison, agree
from worker.models.model import Row
from worker.models.routing import Slot, Trial
from worker.observe.metrics import Metrics
from worker.steps.infer import infer
from worker.steps.work import Decoded, Peer

log = logging.getLogger("sortline.compare")

# How long one piece may take; a single image is a piece whatever it takes.
PIECE_S = 0.010
# How long a deadline that was nearly missed keeps comparisons away, half at the least.
REMEMBERED_S = 10.0


class Comparisons(Protocol):
    """Where comparisons go; neither call waits for anything."""

    def compared(self, trial: Trial, comparison: Comparison) -> None:
        """Two models saw an image."""

    def failed(self, trial: Trial, error: EngineFailed) -> None:
        """The canary's engine failed on an image that the other model could answer."""


class Room:
    """The least time that results had left lately: how much more the worker could take on. For any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._least = [float("inf"), float("inf")]  # of the present half of the time remembered, of the one before
        self._turning = threading.Lock()

    def observe(self, margin_s: float) -> None:
        """A result was made this long before its deadline; negative when late."""
        with self._turning:
            self._turn()
            self._least[0] = min(self._least[0], margin_s)

    def has(self, cost_s: float) -> bool:
        """Whether work of `cost_s` would have delayed nothing past its deadline, with as much again to spare."""
        with self._turning:
            self._turn()
            return 2 * cost_s < min(self._least)

    def _turn(self) -> None:
        elapsed_s = self._clock() - self._since
        if elapsed_s >= REMEMBERED_S / 2:
            before = self._least[0] if elapsed_s < REMEMBERED_S else float("inf")
            self._least = [float("inf"), before]
            self._since = self._clock()


class _Seen(NamedTuple):
    item: Decoded
    row: Row
    peer: Peer


class Comparer:
    """Compares for one worker. Used by its first inference thread; the others only offer."""

    def __init__(self, slot: Slot, *, sink: Comparisons, max_waiting: int, metrics: Metrics) -> None:
        """`max_waiting` images at most wait for their comparison."""
        self._slot = slot
        self._sink = sink
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._waiting: deque[_Seen] = deque()
        self.room = Room()

    def offer(self, answered: Iterable[tuple[Decoded, Row | EngineFailed]]) -> None:
        """Compare these of them that another model is to see, when there is time."""
        for item, row in answered:
            if item.peer is None or isinstance(row, EngineFailed):
                continue
            if item.peer.is_missing or len(self._waiting) >= self._max_waiting:
                self._metrics.canary_skipped.inc()
            else:
                self._waiting.append(_Seen(item, row, item.peer))

    @property
    def ready(self) -> bool:
        """Whether a piece could be run now, were nothing else to do."""
        return bool(self._waiting) and self._waiting[0].peer.pixels is not None and self.room.has(self._cost_s(1))

    def step(self, *, spare_s: float) -> None:
        """Run one piece, if there is one that takes less than `spare_s`."""
        self._forget()
        if self.ready and self._cost_s(1) < spare_s:
            self._run(self._next_piece(min(PIECE_S, spare_s)))

    def drop(self) -> None:
        """The worker ends: what still waits is skipped."""
        self._metrics.canary_skipped.inc(len(self._waiting))
        self._waiting.clear()

    def _cost_s(self, images: int) -> float:
        return self._waiting[0].peer.model.cost.estimate(images)

    def _forget(self) -> None:
        """What waits for a trial that has ended would hold on to its model; what has no pixels waits for nothing."""
        while self._waiting:
            peer = self._waiting[0].peer
            if self._slot.is_on(peer.trial):
                if not peer.is_missing:
                    return
                self._metrics.canary_skipped.inc()
            self._waiting.popleft()

    def _next_piece(self, limit_s: float) -> list[_Seen]:
        """Images for one model: one, and more as they fit into `limit_s`."""
        piece = [self._waiting.popleft()]
        model = piece[0].peer.model
        while self._waiting and self._cost_s(len(piece) + 1) <= limit_s:
            peer = self._waiting[0].peer
            if peer.model is not model or peer.pixels is None:
                break
            piece.append(self._waiting.popleft())
        return piece

    def _run(self, piece: list[_Seen]) -> None:
        model = piece[0].peer.model
        started = time.monotonic()
        rows = infer([seen.peer.pixels for seen in piece if seen.peer.pixels is not None], model.engine)
        model.cost.observe(len(piece), time.monotonic() - started)
        for seen, row in zip(piece, rows, strict=True):
            if not isinstance(row, EngineFailed):
                self._sink.compared(seen.peer.trial, _comparison(seen, row))
                continue
            self._metrics.canary_skipped.inc()
            if not seen.item.by_canary:
                self._sink.failed(seen.peer.trial, row)


def _comparison(seen: _Seen, row: Row) -> Comparison:
    item, other = seen.item, seen.peer.model
    acted = item.model.decider.decision(item.ticket, seen.row)
    compared = other.decider.decision(item.ticket, row)
    return Comparison(
        job_id=item.ticket.job.job_id,
        line=item.ticket.job.line,
        acting=Answer.of(item.model.decider.model, acted),
        compared=Answer.of(other.decider.model, compared),
        agree=agree(acted, compared),
    )
