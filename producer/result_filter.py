"""Chooses the results that `sortline results` shows."""

from __future__ import annotations

from collections.abc import Sequence

from shared.closest_name import closest_name
from shared.errors import BadSetting
from shared.schemas import Outcome, SortResult


class ResultFilter:
    """Call it with a result: is it of one of the jobs, outcomes and lanes? A list that is empty accepts all."""

    def __init__(self, *, jobs: Sequence[str] = (), outcomes: Sequence[str] = (), lanes: Sequence[str] = ()) -> None:
        """Store the names as the user gave them.

        Raises:
            BadSetting: an outcome does not exist.
        """
        known = [outcome.value for outcome in Outcome]
        for outcome in outcomes:
            if outcome not in known:
                close = closest_name(outcome.lower(), known)
                hint = f"did you mean {close}?" if close else f"the outcomes are {', '.join(known)}."
                raise BadSetting(f"--outcome {outcome!r} is not an outcome: {hint}")
        self._wanted = {"job": set(jobs), "outcome": set(outcomes), "lane": set(lanes)}

    def __call__(self, result: SortResult) -> bool:
        values = {"job": result.job_id, "outcome": result.outcome.value, "lane": result.lane}
        return all(not wanted or values[what] in wanted for what, wanted in self._wanted.items())

    @property
    def lanes(self) -> frozenset[str]:
        """The lanes that it accepts; empty if it accepts all."""
        return frozenset(self._wanted["lane"])

    @property
    def is_set(self) -> bool:
        """Whether the filter can leave out any result."""
        return any(self._wanted.values())

    @property
    def described(self) -> str:
        """The filter in words, as they follow `no results`."""
        given = {what: " or ".join(sorted(wanted)) for what, wanted in self._wanted.items() if wanted}
        parts = " and ".join(f"{what} {names}" for what, names in given.items())
        return f" with {parts}" if parts else ""
