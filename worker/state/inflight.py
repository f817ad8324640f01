"""The in-flight set: the leases that a worker holds."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence

from worker.state.jobs import Lease


class Inflight:
    """The leases that this worker holds, from the claim until they are finished, released or lost. For any thread.

    A job that has its verdict is answered: only its result must still be written. It is held, but takes no place: the
    worker has nothing to compute for it.
    """

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._answered: set[str] = set()
        self._finishing: set[str] = set()
        self._counts: defaultdict[str, int] = defaultdict(int)  # by queue, without the answered ones
        self._changed = threading.Condition()

    def add(self, leases: Sequence[Lease]) -> None:
        """Hold these leases from now on."""
        with self._changed:
            for lease in leases:
                if lease.execution_id not in self._leases:
                    self._leases[lease.execution_id] = lease
                    self._counts[lease.queue] += 1

    def answer(self, leases: Iterable[Lease]) -> None:
        """Note that these jobs have their verdicts: they take no place any more."""
        with self._changed:
            for lease in leases:
                execution_id = lease.execution_id
                if execution_id in self._leases and execution_id not in self._answered:
                    self._answered.add(execution_id)
                    self._counts[lease.queue] -= 1
            self._changed.notify_all()

    def remove(self, leases: Sequence[Lease]) -> None:
        """Stop holding these leases."""
        with self._changed:
            self._drop(leases)

    def finishing(self, leases: Sequence[Lease]) -> None:
        """Note that these are about to be finished: if the server doesn't know one from now on, it is not lost."""
        with self._changed:
            self._finishing.update(lease.execution_id for lease in leases)

    def drop_lost(self, leases: Sequence[Lease]) -> list[Lease]:
        """Stop holding these leases, which the server doesn't know, and return them; keep those being finished."""
        with self._changed:
            lost = [lease for lease in leases if lease in self and lease.execution_id not in self._finishing]
            self._drop(lost)
        return lost

    def held(self) -> list[Lease]:
        """All leases that are held, in the order of their claims."""
        with self._changed:
            return list(self._leases.values())

    def count_of(self, queue: str) -> int:
        """How many places jobs of this queue take."""
        return self._counts[queue]

    def wait_below(
        self, count: int, timeout_s: float, *, of_queue: str = "", of_queue_below: int = 0, room: int = 0
    ) -> int:
        """Wait at most `timeout_s` until fewer than `count` places are taken, and return how many are taken then.

        If `of_queue` is given, wait also until fewer than `of_queue_below` are taken by this queue; or only until fewer
        than `room` are, whatever the other queues have taken.
        """

        def is_below() -> bool:
            if not of_queue:
                return self._taken < count
            taken = self._counts[of_queue]
            return taken < room or (self._taken < count and taken < of_queue_below)

        with self._changed:
            self._changed.wait_for(is_below, timeout_s)
            return self._taken

    def wait_answered_below(self, count: int, timeout_s: float) -> bool:
        """Wait at most `timeout_s` until fewer than `count` answered jobs are held. Returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._answered) < count, timeout_s)

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` until nothing is held. Returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._leases, timeout_s)

    @property
    def _taken(self) -> int:
        return len(self._leases) - len(self._answered)

    def _drop(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            self._finishing.discard(lease.execution_id)
            if self._leases.pop(lease.execution_id, None) is None:
                continue
            if lease.execution_id in self._answered:
                self._answered.remove(lease.execution_id)
            else:
                self._counts[lease.queue] -= 1
        self._changed.notify_all()

    def __contains__(self, lease: Lease) -> bool:
        return lease.execution_id in self._leases

    def __len__(self) -> int:
        return len(self._leases)
