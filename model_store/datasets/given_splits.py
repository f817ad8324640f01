"""Splits that a dataset brings along: folders such as `train`, `valid` and `test`, or a column of these words.

In: a folder's name or a cell. Out: what its images are for. Images for testing are held out, as those that held_out.txt
names; those for validation become the validation set if they have what it needs (`audit`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from model_store.datasets.comparable import comparable_word

Part = Literal["train", "validation", "test"]
_PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "tests": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "holdout": "test",
    "heldout": "test",
}
_SUFFIX = re.compile(r"(?<=.)(set|data|images|split)$")


def part_of(word: str) -> Part | None:
    """What the images under this name are for; None if it is not the name of a split. Case and hyphens don't count."""
    plain = comparable_word(word)
    return _PARTS.get(plain) or _PARTS.get(_SUFFIX.sub("", plain))


def are_splits(folders: Iterable[str]) -> bool:
    """Whether all of these folders are splits, and there are several kinds: a lone `test/` is only a wrapper."""
    parts = {part_of(folder) for folder in folders}
    return len(parts) > 1 and None not in parts


def lies_in_test(name: str) -> bool:
    """Whether a file lies in a folder that is called like a split to test with, at any depth."""
    return any(part_of(folder) == "test" for folder in name.split("/")[:-1])
