"""The in-flight set: the leases that a worker holds."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from worker.state.jobs import Lease


class Inflight:
    """The leases that this worker holds, from the claim until they are finished, released or lost. For any thread."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._finishing: set[str] = set()
        self._changed = threading.Condition()

    def add(self, leases: Sequence[Lease]) -> None:
        """Hold these leases from now on."""
        with self._changed:
            self._leases |= {lease.execution_id: lease for lease in leases}

    def remove(self, leases: Sequence[Lease]) -> None:
        """Stop holding these leases."""
        with self._changed:
            for lease in leases:
                self._leases.pop(lease.execution_id, None)
                self._finishing.discard(lease.execution_id)
            self._changed.notify_all()

    def finishing(self, leases: Sequence[Lease]) -> None:
        """Note that these are about to be finished: from now on it is no loss when the server doesn't know them."""
        with self._changed:
            self._finishing.update(lease.execution_id for lease in leases)

    def drop_lost(self, leases: Sequence[Lease]) -> list[Lease]:
        """Stop holding leases that the server no longer knows, and return them; not those that are being finished."""
        with self._changed:
            lost = [lease for lease in leases if lease in self and lease.execution_id not in self._finishing]
            for lease in lost:
                del self._leases[lease.execution_id]
            self._changed.notify_all()
        return lost

    def held(self) -> list[Lease]:
        """All leases that are held, in the order of their claims."""
        with self._changed:
            return list(self._leases.values())

    def count_of(self, queue: str) -> int:
        """How many jobs of this queue are held."""
        with self._changed:
            return sum(lease.queue == queue for lease in self._leases.values())

    def wait_below(self, count: int, timeout_s: float) -> int:
        """Wait at most `timeout_s` until fewer than `count` are held; how many are held then."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._leases) < count, timeout_s)
            return len(self._leases)

    def __contains__(self, lease: Lease) -> bool:
        return lease.execution_id in self._leases

    def __len__(self) -> int:
        return len(self._leases)
