"""Suspects: claims jobs that may crash the worker, each one alone. Called by the claim thread only.

In: how the last claim of other jobs went. Out: a `Claim` of one suspect, while the worker holds nothing else. If the
worker crashes then, the suspect is known to be the cause.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.rq.claimer import Claim, Claimer
from worker.state.costly_jobs import CostlyJobs
from worker.state.suspect_turn import SuspectTurn

# The server is not asked more often than this whether suspects wait.
POLL_S = 0.5
# An idle worker that waits for its next turn wakes no more often than this.
MIN_WAIT_S = 0.01


class SuspectClaims:
    """Claims suspects for one worker, in turns."""

    def __init__(
        self,
        claimer: Claimer,
        costly: CostlyJobs,
        *,
        lost_s: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lost_s`: the time that the crash of this worker's predecessor has cost; 0 if there was none."""
        self._claimer = claimer
        self._costly = costly
        self._turn = SuspectTurn(lost_s=lost_s, clock=monotonic)
        self._monotonic = monotonic
        self._polled_at = float("-inf")
        self.may_wait = True  # until the server says that none waits

    @property
    def is_draining(self) -> bool:
        """Whether the worker still finishes other jobs before it takes the first suspect of this turn."""
        return self._turn.is_draining

    @property
    def has_turn(self) -> bool:
        """Whether only suspects may be claimed now: call `claim` once the worker holds nothing."""
        return self._turn.is_on

    def observe(self, claim: Claim, *, is_idle: bool) -> None:
        """Begin a turn after this claim of other jobs if one is due and suspects wait.

        From the beginning of a turn, other jobs are no longer claimed. A turn does not begin while a costly image is
        being decoded: that may take long, and claims go on meanwhile. But no further costly image is begun then.

        Args:
            is_idle: the worker held nothing before the claim.

        Raises:
            redis.exceptions.RedisError: the server can't be reached; no turn has begun.
        """
        is_idle = is_idle and not claim.jobs and not claim.cut_short
        self._turn.observe(is_idle=is_idle)
        if self.has_turn:
            return
        if claim.suspended or self._turn.due_in_s() > 0 or not self._poll(is_idle=is_idle):
            self._costly.go_on()
        elif self._costly.hold_back():
            self._turn.begin()

    def claim(self) -> Claim | None:
        """Claim the next suspect. If none waits, this ends the turn.

        Returns:
            the claim; None if the turn has lasted long enough: this ends it, and nothing is claimed.

        Raises:
            redis.exceptions.RedisError: the server can't be reached. If a suspect was claimed all the same, the next
                call returns it.
        """
        if not self._turn.may_claim():
            self._turn.end()
            return None
        self._costly.go_on()  # from now on all costly jobs are suspects
        claim = self._claimer.claim_suspect()
        if not claim.jobs:
            self.may_wait = False
            self._turn.end()
        return claim

    def idle_wait_s(self, longest_s: float) -> float:
        """How long an idle worker may wait for other jobs."""
        if self._costly.in_hand is not None:
            return longest_s
        return min(longest_s, max(MIN_WAIT_S, self._turn.due_in_s())) if self.may_wait else longest_s

    def _poll(self, *, is_idle: bool) -> bool:
        now = self._monotonic()
        if not self.may_wait and not is_idle and now - self._polled_at < POLL_S:
            return False
        self.may_wait = self._claimer.suspects_wait()
        self._polled_at = now
        return self.may_wait
