"""Every error that Sortline raises on purpose, in one tree.

    SortlineError
    ├── BadInput              wrong and stays wrong: never retried
    │   ├── BadSetting        a setting, flag or file of settings
    │   ├── BadImage          bytes that are not a usable image
    │   ├── BadJob            a job that is not ours or doesn't parse
    │   ├── Quarantined       a job that is not tried again, as its workers died
    │   ├── BadDataset        a training or evaluation dataset
    │   ├── BadBackbone       a feature extractor that was changed or does not fit
    │   ├── BadBundle         a model bundle that is incomplete, changed or answers wrongly
    │   ├── CommandRefused    Redis refuses a command, and would again
    │   └── NotFound          a model, version, file or backbone that isn't there
    │       └── ResultGone    a job whose result will never come
    └── Transient             may succeed next time: retried
        ├── RedisUnavailable  Redis can't be reached, or can't serve for now
        ├── StoreUnavailable  the model store can't be read or written
        ├── QueueFull         the queue is at its bound, or the memory of Redis is full
        ├── ResultTimeout     results that did not arrive in time
        ├── DecoderLost       the process that decodes costly images has ended
        └── EngineFailed      the model raised or answered the wrong number of items

A message says what is wrong, with which value, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.schemas import SortResult


class SortlineError(Exception):
    """Base of all errors raised on purpose; its text is fit to show a user."""


class BadInput(SortlineError):
    """The input is wrong and stays wrong: trying again can't help."""


class BadSetting(BadInput):
    """A setting has a value that can't be used."""


class BadImage(BadInput):
    """The bytes are not a usable image. `reason` is one stable word for counting."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadJob(BadInput):
    """A job names another function, carries what we refuse, or doesn't parse."""


class Quarantined(BadInput):
    """A job whose workers died too often: it is not tried again."""


class BadDataset(BadInput):
    """A dataset can't be read or can't be trained on."""


class BadBackbone(BadInput):
    """A backbone that was changed in the cache, or is not an image feature extractor."""


class BadBundle(BadInput):
    """A model bundle is incomplete, was changed, or does not give its golden answers."""


class CommandRefused(BadInput):
    """The Redis server refuses a command for a reason that stays, e.g. because a key holds another type."""


class NotFound(BadInput):
    """Something named by the user does not exist."""


class ResultGone(NotFound):
    """Jobs that will never have a result.

    `reasons` says why, by job id. `results` holds the results of the other jobs.
    """

    def __init__(self, message: str, *, results: Mapping[str, SortResult], reasons: Mapping[str, str]) -> None:
        super().__init__(message)
        self.results = dict(results)
        self.reasons = dict(reasons)


class Transient(SortlineError):
    """The operation failed now and may succeed later."""


class RedisUnavailable(Transient):
    """The Redis server can't be reached, or can't serve for now (loading, busy, unable to save, a replica …)."""


# The former name of RedisUnavailable, which users' code may still catch.
ServerAway = RedisUnavailable


class StoreUnavailable(Transient):
    """The storage of the model store can't be read or written: it is unreachable, forbidden, or full."""


class QueueFull(Transient):
    """The queue is at its bound, or the server's memory is full; the producer decides what to do.

    `accepted` holds the ids of those jobs of the call that are in the queue nevertheless, in order. It is empty unless
    the call was to enqueue as many as fit (`partial`), or lost a race for the last free places between two round trips.
    """

    def __init__(self, message: str, *, accepted: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.accepted = tuple(accepted)


class ResultTimeout(Transient):
    """Results did not arrive in time. `results` holds those that did, `missing` the other job ids."""

    def __init__(self, message: str, *, results: Mapping[str, SortResult], missing: Sequence[str]) -> None:
        super().__init__(message)
        self.results = dict(results)
        self.missing = tuple(missing)


class DecoderLost(Transient):
    """The process that decodes costly images ended for a reason that says nothing about the image."""


class EngineFailed(Transient):
    """The engine raised, or did not return one answer per item."""
