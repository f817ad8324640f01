"""Mutates inputs, in the same way for the same seed and number. Works without knowledge of any format."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

# An input is at most this long: small files reach the same code, and far more of them can be tried.
MAX_BYTES = 20_000
_MOST_EDITS = 5
_LONGEST_RUN = 60
# Half of the edits are made here, because headers decide most.
_HEADER_BYTES = 200
# Numbers at which counts and lengths overflow.
_NUMBERS = (0, 1, 2, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1)
_REPEATS = (2, 3, 20, 200)

Edit = Callable[[bytearray, int, random.Random], None]


class Mutator:
    """Mutates the seeds of one target."""

    def __init__(self, seeds: Sequence[bytes], tokens: Sequence[bytes], *, seed: int) -> None:
        """`tokens` are short pieces that have a meaning in the format, e.g. names of chunks."""
        self._seeds = list(seeds)
        self._tokens = list(tokens)
        self._seed = seed

    def input_of(self, number: int) -> bytes:
        """The input of this number, from 0. The first ones are the seeds as they are."""
        if number < len(self._seeds):
            return self._seeds[number]
        dice = random.Random(f"{self._seed} {number}")  # noqa: S311 - a seed makes the choices repeatable
        data = bytearray(dice.choice(self._seeds))
        for _ in range(dice.randint(1, _MOST_EDITS)):
            at = self._place(data, dice)
            edit = dice.choice((_flip, _flip, _number, _number, _delete, _insert, _repeat, self._token, self._splice))
            edit(data, at, dice)
        if dice.random() < 0.1:
            del data[self._place(data, dice) :]
        return bytes(data[:MAX_BYTES])

    def _place(self, data: bytearray, dice: random.Random) -> int:
        length = min(len(data), _HEADER_BYTES) if dice.random() < 0.5 else len(data)
        return dice.randrange(length) if length else 0

    def _token(self, data: bytearray, at: int, dice: random.Random) -> None:
        token = dice.choice(self._tokens)
        data[at : at + (len(token) if dice.random() < 0.5 else 0)] = token

    def _splice(self, data: bytearray, at: int, dice: random.Random) -> None:
        other = dice.choice(self._seeds)
        begin = dice.randrange(len(other))
        end = begin + dice.randint(1, len(other))
        data[at : at + dice.randint(0, _LONGEST_RUN)] = other[begin:end]


def _flip(data: bytearray, at: int, dice: random.Random) -> None:
    if data:
        data[at] = dice.randrange(256) if dice.random() < 0.5 else data[at] ^ 1 << dice.randrange(8)


def _number(data: bytearray, at: int, dice: random.Random) -> None:
    length = dice.choice((1, 2, 4, 8))
    value = dice.choice(_NUMBERS) % (1 << 8 * length)
    data[at : at + length] = value.to_bytes(length, dice.choice(("big", "little")))


def _delete(data: bytearray, at: int, dice: random.Random) -> None:
    del data[at : at + dice.randint(1, _LONGEST_RUN)]


def _insert(data: bytearray, at: int, dice: random.Random) -> None:
    data[at:at] = dice.randbytes(dice.randint(1, _LONGEST_RUN))


def _repeat(data: bytearray, at: int, dice: random.Random) -> None:
    piece = bytes(data[at : at + dice.randint(1, _LONGEST_RUN)])
    data[at:at] = piece * dice.choice(_REPEATS)
