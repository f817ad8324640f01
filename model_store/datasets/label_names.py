"""The names of classes, compared in one form: people, cameras and systems write one name in several ways.

`no cap`, `No Cap`, `no-cap` and `no_cap` are one class, and so are names that differ only in how Unicode writes an
accent. In: the names as written. Out: one name for each class, and which were merged.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from model_store.bundle.policy import GOOD
from model_store.datasets.comparable import BLANKS, comparable
from shared.errors import BadDataset

LABEL_SEPARATOR = "|"
FOLDER_SEPARATOR = "+"
MAX_CHARACTERS = 64

# Names that people give to bottles without a defect.
_LIKE_GOOD = frozenset(
    {
        "accepted", "correct", "defect free", "fine", "flawless", "gut", "healthy", "i.o.", "in ordnung", "intact",
        "io", "no damage", "no defect", "no defects", "no fault", "no issue", "nodefect", "none", "non defective",
        "normal",
        "ok", "okay", "pass", "passed", "perfect", "undamaged", "without defect",
    }
)  # fmt: skip


def is_like_good(name: str) -> bool:
    """Whether the name, other than `good`, seems to say that a bottle has no defect."""
    return comparable(name) in _LIKE_GOOD


class ClassNames(NamedTuple):
    """`name_of` gives the class of each name; `merged` the names of each class that has several, or another one."""

    name_of: dict[str, str]
    merged: dict[str, tuple[str, ...]]


def class_names(counts: Mapping[str, int], *, good_class: str | None = None) -> ClassNames:
    """Give each class one name: the most frequent one, and `good` for the class of bottles without a defect.

    Args:
        counts: how many images have each name, as `cleaned_label` returns it.
        good_class: another name of the class `good`.

    Raises:
        BadDataset: `good_class` is not among the names.
    """
    by_comparable: dict[str, list[str]] = {}
    for name in counts:
        by_comparable.setdefault(comparable(name), []).append(name)
    good = {comparable(GOOD), comparable(good_class or GOOD)}
    if not good <= {*by_comparable, comparable(GOOD)}:
        shown = ", ".join(map(repr, sorted(counts)[:20]))
        raise BadDataset(f"--good-class {good_class}: the dataset has no class of this name. Its classes are: {shown}.")
    as_good = sorted(name for key in good for name in by_comparable.pop(key, []))
    groups = {_best(names, counts): sorted(names) for names in by_comparable.values()}
    if as_good:
        groups[GOOD] = as_good
    return ClassNames(
        {name: chosen for chosen, names in groups.items() for name in names},
        {chosen: tuple(names) for chosen, names in sorted(groups.items()) if names != [chosen]},
    )


def _best(names: Iterable[str], counts: Mapping[str, int]) -> str:
    """The most frequent name; of equally frequent ones that in small letters, with blanks."""
    return min(names, key=lambda name: (-counts[name], name != name.lower(), "_" in name or "-" in name, name))


def cleaned_labels(labels: Iterable[str], *, location: str) -> tuple[str, ...]:
    """The labels of one image, each once, sorted; blanks at the ends, and the forms of Unicode, don't count.

    Raises:
        BadDataset: there is no label, or one that can't be.
    """
    written = list(labels)
    if not any(label.strip() for label in written):
        raise BadDataset(f"{location}: no label: write `{GOOD}` where no defect applies.")
    return tuple(sorted({_cleaned_label(label, location) for label in written}))


def check_contradiction(labels: Iterable[str], *, location: str) -> None:
    """Raise BadDataset if `good` stands beside a defect."""
    names = set(labels)
    if GOOD in names and len(names) > 1:
        defects = " and ".join(repr(label) for label in sorted(names - {GOOD}))
        raise BadDataset(f"{location}: `{GOOD}` stands beside {defects}, but `{GOOD}` means that no defect applies.")


def _cleaned_label(label: str, location: str) -> str:
    name = unicodedata.normalize("NFC", " ".join(BLANKS.split(label)).strip())
    if not name:
        raise BadDataset(f"{location}: an empty label beside others: remove it, or the separator before or after it.")
    if FOLDER_SEPARATOR in name:
        raise BadDataset(
            f"{location}: {name[:80]!r} can't be a label: `{FOLDER_SEPARATOR}` joins the labels of a folder. Join "
            f"the labels in a table by `{LABEL_SEPARATOR}`, or rename the label."
        )
    if len(name) > MAX_CHARACTERS:
        raise BadDataset(
            f"{location}: the label {name[:20]!r}… has {len(name):,} characters, but may have {MAX_CHARACTERS}. "
            "Shorten it."
        )
    if not name.isprintable() or LABEL_SEPARATOR in name:
        raise BadDataset(f"{location}: {label[:80]!r} can't be a label: 1 to 64 printable characters, no `|`.")
    return name
