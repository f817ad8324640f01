"""Every error that Sortline raises on purpose, in one tree.

    SortlineError
    ├── BadInput            wrong and stays wrong: never retried
    │   ├── BadSetting      a setting, flag or file of settings
    │   ├── BadImage        bytes that are not a usable image
    │   ├── BadJob          a job that is not ours or doesn't parse
    │   ├── BadDataset      a training or evaluation dataset
    │   ├── BadBundle       a model bundle that is incomplete, changed or answers wrongly
    │   └── NotFound        a model, version, file or backbone that isn't there
    └── Transient           may go well next time: retried
        ├── ServerAway      Redis can't be reached
        ├── QueueFull       the queue is at its bound; nothing was enqueued
        └── EngineFailed    the model raised or answered the wrong number of items

A message says what is wrong, with which value, and what to do.
"""

from __future__ import annotations


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


class BadDataset(BadInput):
    """A dataset can't be read or can't be trained on."""


class BadBundle(BadInput):
    """A model bundle is incomplete, was changed, or does not give its golden answers."""


class NotFound(BadInput):
    """Something named by the user does not exist."""


class Transient(SortlineError):
    """The operation failed now and may succeed later."""


class ServerAway(Transient):
    """The Redis server can't be reached."""


class QueueFull(Transient):
    """The queue is at its bound. Nothing was enqueued; the producer decides what to do."""


class EngineFailed(Transient):
    """The engine raised, or answered another number of items than it was given."""
