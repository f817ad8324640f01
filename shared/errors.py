"""Every error that Sortline raises on purpose, in one tree.

    SortlineError
    ├── BadInput              would fail again: never retried
    │   ├── BadSetting        a setting, flag or settings file can't be used
    │   ├── BadImage          the bytes are not a usable image
    │   ├── BadJob            a job is not one of Sortline's, or doesn't parse
    │   ├── Quarantined       a job is not tried again because its workers died too often
    │   ├── BadDataset        a training or evaluation dataset can't be used
    │   ├── BadBackbone       a feature extractor was changed, or can't be used
    │   ├── BadBundle         a model bundle is incomplete, was changed, or answers wrongly
    │   │   └── BadSignature  no key of the setting trusted_keys has signed it
    │   ├── CommandRefused    Redis refuses a command, and would refuse it again
    │   └── NotFound          a model, version, file or backbone does not exist
    │       └── ResultGone    a job will never have a result
    └── Transient             may succeed next time: retried
        ├── RedisUnavailable  Redis can't be reached, or can't serve for now
        ├── StoreUnavailable  the model store can't be read or written
        ├── QueueFull         the queue takes no more images now (`Bound` says why)
        ├── ResultTimeout     results did not arrive in time
        ├── DecoderLost       the process that decodes costly images has ended
        └── EngineFailed      the model raised, or answered the wrong number of items

A message says what is wrong, with which value, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.schemas import SortResult


class SortlineError(Exception):
    """Base class of all errors that Sortline raises on purpose. The message can be shown to a user."""


class BadInput(SortlineError):
    """The input is wrong: trying again can't help."""


class BadSetting(BadInput):
    """A setting has a value that can't be used."""


class BadImage(BadInput):
    """The bytes are not a usable image. `reason` is one stable word, used in metrics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadJob(BadInput):
    """A job names another function, has a value that is refused, or doesn't parse."""


class Quarantined(BadInput):
    """A job has crashed its worker, or was lost with it, too often: it is not tried again."""


class BadDataset(BadInput):
    """A dataset can't be read or can't be trained on."""


class BadBackbone(BadInput):
    """A backbone was changed in the cache, or is not an image feature extractor."""


class BadBundle(BadInput):
    """A model bundle is incomplete, was changed, or does not give its golden answers."""


class BadSignature(BadBundle):
    """No key of the setting `trusted_keys` has signed a model bundle."""


class CommandRefused(BadInput):
    """The Redis server refuses a command and would refuse it again, e.g. because a key holds another type."""


class NotFound(BadInput):
    """Something named by the user does not exist."""


class ResultGone(NotFound):
    """Some jobs will never have a result.

    `reasons` maps the ids of these jobs to the reasons. `results` maps the ids of the other jobs to their results.
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


class Bound(StrEnum):
    """Why a queue takes no more images: which of its bounds was hit."""

    ITEMS = "items"  # `queue_max_items`
    BYTES = "bytes"  # `queue_max_bytes`
    WAIT = "wait"  # `queue_max_wait_s`
    LINE = "line"  # the line's part of these (`line_share`)
    DEADLINE = "deadline"  # the image can't be answered by its deadline, at the rate at which the queue moves
    MEMORY = "memory"  # the server's memory is full


class QueueFull(Transient):
    """The queue takes no more images now. The producer decides what to do.

    Attributes:
        bound: which bound was hit; by the first of the refused jobs, if there are several.
        retry_after_s: when there is likely to be room again, seconds from now. An image that was refused because of its
            deadline will not be accepted later, but a new one may be.
        refused: the ids of the call's jobs that were refused, each with the bound that it hit.
        accepted: the ids of the call's jobs that are in the queue despite the error, in order. Empty unless the call
            was `partial` (to enqueue as many jobs as fit), or another producer took the last free places between two of
            the call's round trips.
    """

    def __init__(
        self,
        message: str,
        *,
        bound: Bound = Bound.ITEMS,
        retry_after_s: float = 1.0,
        refused: Mapping[str, Bound] = MappingProxyType({}),
        accepted: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.bound = bound
        self.retry_after_s = retry_after_s
        self.refused = dict(refused)
        self.accepted = tuple(accepted)


class ResultTimeout(Transient):
    """Some results did not arrive in time.

    `results` maps job ids to the results that did arrive. `missing` holds the ids of the other jobs.
    """

    def __init__(self, message: str, *, results: Mapping[str, SortResult], missing: Sequence[str]) -> None:
        super().__init__(message)
        self.results = dict(results)
        self.missing = tuple(missing)


class DecoderLost(Transient):
    """The process that decodes costly images ended for a reason that says nothing about the image."""


class EngineFailed(Transient):
    """The engine raised, or did not return one answer per item."""
