"""The whole corpus, or a sample of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from torture.corpus.case import Case
from torture.corpus.damaged import claimed_sizes, cut, ended_early, missing_rows, whole
from torture.corpus.foreign import names, other_formats, polyglots
from torture.corpus.odd_jpegs import odd_jpegs
from torture.corpus.odd_others import decompression, odd_others, slow
from torture.corpus.odd_pngs import odd_pngs

# Families whose files take long to make, to send or to decode.
HEAVY = frozenset({"slow", "metadata bomb", "decompression bomb"})


def all_cases(seed: int) -> list[Case]:
    """Every case, always in the same order. The seed decides where files are cut."""
    return list(_cases(random.Random(seed)))  # noqa: S311 - a seed makes the choices repeatable


def _cases(dice: random.Random) -> Iterator[Case]:
    yield from whole()
    yield from cut(dice)
    yield from ended_early(dice)
    yield from missing_rows()
    yield from claimed_sizes()
    yield from odd_jpegs()
    yield from odd_pngs()
    yield from odd_others()
    yield from other_formats()
    yield from polyglots()
    yield from names()
    yield from decompression()
    yield from slow()


def sample(cases: list[Case], count: int, *, seed: int) -> list[Case]:
    """Cases that are made and decoded in no time: the first of each family, and others at random."""
    light = [case for case in cases if case.family not in HEAVY]
    firsts = list({case.family: case for case in reversed(light)}.values())
    others = [case for case in light if case not in firsts]
    return firsts + random.Random(seed).sample(others, max(0, count - len(firsts)))  # noqa: S311 - as above


def write(cases: list[Case], folder: Path) -> None:
    """Write the files."""
    folder.mkdir(parents=True)
    for case in cases:
        (folder / case.name).write_bytes(case.make())
