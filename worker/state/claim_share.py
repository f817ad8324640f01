"""The share of the claims that the queues other than the most urgent one get."""

from __future__ import annotations


class ClaimShare:
    """Counts how many jobs are due to the other queues. For one thread."""

    def __init__(self, share: float, *, most: int) -> None:
        """`share`: jobs of the other queues for each job of the most urgent one, while that one never runs empty.

        At most `most` are due: after a long time without room for them, urgent jobs must not pay for all of it.
        """
        self._share = share
        self._most = most
        self._due = 0.0

    def due(self, limit: int) -> int:
        """How many of the next `limit` jobs are due to the other queues."""
        return min(int(self._due), limit)

    def count(self, *, urgent: int, others: int, ran_empty: bool, others_allowed: bool) -> None:
        """Count a claim. Nothing stays due if the most urgent queue ran empty, or if none of the others' jobs waits.

        Args:
            urgent: how many of its jobs are of the most urgent queue.
            others: how many are of the other queues.
            ran_empty: fewer jobs came than were asked for.
            others_allowed: it might have brought jobs of the other queues.
        """
        if ran_empty or (others_allowed and not others and self._due >= 1):
            self._due = 0.0
        else:
            self._due = min(self._most, max(0.0, self._due - others) + self._share * urgent)
