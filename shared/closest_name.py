"""Finds the name that a user probably meant, for messages such as "did you mean max_batch?"."""

from __future__ import annotations

from collections.abc import Iterable


def closest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name of which `name` is most likely a misspelling; None if none is close to it."""
    import difflib  # imported only when there is an error to report

    return next(iter(difflib.get_close_matches(name, known, n=1)), None)
