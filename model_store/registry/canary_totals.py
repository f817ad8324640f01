"""The counts of one canary over all workers of a Redis server, as its hash on that server has them.

Workers write the hash: `worker.canary.tally`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import redis

from model_store.registry.canary import Canary
from shared import keys

# How long counts and verdict are kept after a worker has last read them. A canary that was stopped must not come back
# because all workers were off for a while and the store could not be written.
KEEP_S = 30 * 86_400
FIELDS = ("compared", "disagreed", "stopped")


@dataclass(frozen=True, slots=True)
class CanaryTotals:
    """How many images were compared, how many of them disagreed, and why the canary was stopped, if it was.

    All zero if the server has no hash of the canary: none was compared yet, the hash has expired, or the workers use
    another server.
    """

    compared: int = 0
    disagreed: int = 0
    stopped: str | None = None

    @classmethod
    def parse(cls, values: Sequence[bytes | None]) -> CanaryTotals:
        """Parse the values of FIELDS in the hash. A value is None if the hash lacks the field."""
        compared, disagreed, stopped = values
        return cls(int(compared or 0), int(disagreed or 0), stopped.decode() if stopped else None)

    @property
    def ratio(self) -> float:
        """Share of the compared images that disagreed; 0 before the first comparison."""
        return self.disagreed / self.compared if self.compared else 0.0

    def __str__(self) -> str:
        if not self.compared:
            return "this Redis server has no counts of it"
        return f"{self.disagreed:,} of {self.compared:,} compared images ({self.ratio:.1%}) were answered differently"


def read_totals(client: redis.Redis, name: str, canary: Canary) -> CanaryTotals:
    """The current totals of a model's canary.

    Raises:
        redis.exceptions.RedisError: the server can't be reached, or refuses.
    """
    values = client.hmget(keys.canary(name, canary.version, canary.started_at), *FIELDS)
    return CanaryTotals.parse(cast("list[bytes | None]", values))
