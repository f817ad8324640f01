"""The tree of errors: two families, as the drawing at the top of the file shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from shared import errors
from shared.errors import BadInput, SortlineError, Transient
from shared.images import decoder_process


def subclasses(base: type[SortlineError]) -> Iterator[type[SortlineError]]:
    for child in base.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_is_of_exactly_one_family() -> None:
    for error in subclasses(SortlineError):
        assert issubclass(error, BadInput) != issubclass(error, Transient), error


def test_the_drawing_shows_every_error_under_its_parent() -> None:
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"[ │├└─]*?([A-Z]\w+)(  |$)", line)
        if not line.startswith("    ") or found is None:
            continue
        depth = found.start(1)
        while path and path[-1][0] >= depth:
            path.pop()
        drawn[found.group(1)] = path[-1][1] if path else "Exception"
        path.append((depth, found.group(1)))
    assert issubclass(decoder_process.DecoderLost, Transient)  # imported, or it would not be in the tree
    tree = {error.__name__: error.__bases__[0].__name__ for error in [SortlineError, *subclasses(SortlineError)]}
    assert drawn == tree


def test_a_bad_image_carries_its_reason() -> None:
    error = errors.BadImage("truncated", "this JPEG ends too early")
    assert (error.reason, str(error)) == ("truncated", "this JPEG ends too early")


def test_code_that_catches_the_former_name_of_an_error_still_works() -> None:
    with pytest.raises(errors.ServerAway):
        raise errors.RedisUnavailable("no Redis server answers")
