"""What one forged job is made of, and the traps in it: whatever runs a payload leaves a line in a file."""

from __future__ import annotations

import json
import shlex
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from shared.schemas import Outcome

# A module of ours that nothing of ours imports. If it is imported, or its function `trip` is called, it says so in the
# record of executions (`torture.plant.executions`).
TRIPWIRE = "torture.plant.tripwire"
# Stands for a field of the ImageJob that is left out.
MISSING: Final = object()

Outcomes = tuple[Outcome, ...]
REFUSED: Outcomes = ()  # it must fail unread
SORTED: Outcomes = (Outcome.SORTED,)
REJECTED: Outcomes = (Outcome.REJECTED,)
EXPIRED: Outcomes = (Outcome.EXPIRED,)


class Traps(NamedTuple):
    """Makes texts that add a line to the record of executions if anything runs them."""

    record: str  # the path of the record

    def shell(self, name: str) -> str:
        """A command for a shell."""
        return f"echo {shlex.quote(name)} >> {shlex.quote(self.record)}"

    def python(self, name: str) -> str:
        """An expression of Python."""
        return f"__import__('os').system({self.shell(name)!r})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """A job that is valid except for what is given here. The functions are called when the job is made.

    Attributes:
        outcomes: those that it may have; none if it must fail unread, and be counted as refused.
        data: RQ's `data`, which holds the call.
        call: fields of its ImageJob to replace.
        fields: fields of its hash to replace.
        image: what its image key holds: None for no key, a sequence for a list. It is not replaced if it is absent.
    """

    outcomes: Outcomes
    data: Callable[[Traps], bytes] | None = None
    call: Callable[[], Mapping[str, object]] | None = None
    fields: Mapping[str, str | bytes] | None = None
    image: Callable[[], bytes | Sequence[bytes] | None] | None = None


def packed(call: object) -> bytes:
    """A call in the form of RQ's `data`: compressed JSON."""
    return zlib.compress(json.dumps(call).encode())


def name_of(what: str, value: object) -> str:
    """A short name for the payload that puts the value there."""
    text = value if isinstance(value, str) else repr(value) if not isinstance(value, int) else _digits(value)
    return f"{what} = {text[:24]!a}" + (f" ({len(text):,} characters)" if len(text) > 24 else "")


def _digits(value: int) -> str:
    return str(value) if abs(value) < 10**4_000 else f"{'-' if value < 0 else ''}10**4000"


def by_value(what: str, values: Sequence[Any], make: Callable[[Any], Payload]) -> dict[str, Payload]:
    """A payload for each of the values of one field."""
    made = {name_of(what, value): make(value) for value in values}
    if len(made) != len(values):
        raise ValueError(f"two values of {what} have the same name")
    return made
