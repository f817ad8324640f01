"""Members and scores for RQ's registries, that RQ would never write."""

from __future__ import annotations

from collections.abc import Mapping

# RQ's registries of a queue: the name in the key, by its name in RQ's documentation.
REGISTRIES: Mapping[str, str] = {
    "started": "wip",
    "finished": "finished",
    "failed": "failed",
    "deferred": "deferred",
    "scheduled": "scheduled",
    "canceled": "canceled",
}
MEMBERS: tuple[bytes, ...] = (
    b"",
    b" ",
    b"no-colon",
    b":",
    b"a:",
    b":b",
    b"a:b:c",
    b"\xff\x00:\xff",
    b"\x1b[31m:\n",
    b"*:*",
    b"%s:{}",
    b"gone:" + b"e" * 32,
    b"x" * 100_000 + b":y",
)
# The server itself refuses "not a number" as a score.
SCORES: Mapping[str, str] = {
    "-inf": "-inf",
    "a huge negative score": "-1e308",
    "0": "0",
    "a tiny score": "5e-324",
    "a huge score": "1e308",
    "inf": "inf",
}
# Scores under which a lease never expires: somebody must remove it.
NEVER = ("a huge score", "inf")
# The server answers with an error to these.
NO_SCORES = ("nan", "-nan", "1e400x", "", "soon")
