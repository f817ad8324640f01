"""Splits that a dataset brings along: folders such as `train`, `valid` and `test`, or a column of these words.

In: a folder's name or a cell. Out: what its images are for. Images for testing are held out, as those that held_out.txt
names; those for validation become the validation set if they have what it needs (`audit`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

Part = Literal["train", "validation", "test"]
_PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "tests": "test",
    "testing": "test",
    "tst": "test",
    "eval": "test",
    "evaluation": "test",
    "holdout": "test",
    "heldout": "test",
}
# Words that say nothing beside the name of a split: `my_train_dataset`, `test_v2`.
_FILLERS = frozenset({"data", "dataset", "folder", "images", "imgs", "my", "set", "split", "v", "version"})
_SUFFIX = re.compile(r"(?<=.)(dataset|set|data|images|imgs|split)$")
_WORD = re.compile(r"[^\W\d_]+")  # digits only number the splits: `01_train`, `test2`, `train (1)`


def part_of(word: str) -> Part | None:
    """What the images under this name are for; None if it is not the name of a split.

    Case, signs, digits, full-width letters, and words such as `set` and `my` don't count.
    """
    words = _words(word)
    plain = "".join(one for one in words if one not in _FILLERS)
    return _PARTS.get(plain) or _PARTS.get(_SUFFIX.sub("", plain))


def _words(name: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", name).casefold())


def are_splits(folders: Iterable[str]) -> bool:
    """Whether all of these folders are splits, and there are several kinds: a lone `test/` is only a wrapper."""
    parts = {part_of(folder) for folder in folders}
    return len(parts) > 1 and None not in parts


def lies_in_test(name: str) -> bool:
    """Whether a file lies in a folder whose name has a word for testing, such as `old test`, at any depth."""
    return any(part_of(word) == "test" for folder in name.split("/")[:-1] for word in (folder, *_words(folder)))
