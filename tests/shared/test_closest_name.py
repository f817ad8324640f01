"""A misspelled name is recognized, and an unlike one is not."""

from __future__ import annotations

from shared.closest_name import closest_name


def test_closest_name() -> None:
    assert closest_name("maxbatch", ["max_batch", "queues"]) == "max_batch"
    assert closest_name("color", ["max_batch", "queues"]) is None
