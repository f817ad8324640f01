"""Which level of folders holds the classes: refuses datasets in which two levels may.

`cam1/good`, `cam1/no cap`, `cam2/good` and `cam2/no cap` look like the classes cam1 and cam2, with folders inside. So
do splits under names that `given_splits` doesn't know. A model of these would learn to tell cameras or splits apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from model_store.bundle.policy import GOOD
from model_store.datasets.comparable import comparable
from model_store.datasets.given_splits import part_of
from model_store.datasets.label_names import is_like_good
from shared.errors import BadDataset
from shared.printable import printable

_SHOWN = 3


def check_class_level(paths: Iterable[str], *, location: str) -> None:
    """Raise if folders on top hold folders of the same names.

    Two common names are enough, or one that means `good`. If one of the folders on top means `good`, they are the
    classes, and what they share, such as days, doesn't matter.

    Args:
        paths: the images, from the folders on that would be the classes.
        location: the dataset, for the message.

    Raises:
        BadDataset: names the folders, and says what to change.
    """
    inside = _folders_inside(paths)
    clear = any(map(_means_good, inside))
    for one, other in combinations(sorted(top for top in inside if inside[top]), 2):
        shared = sorted(inside[one].keys() & inside[other].keys())
        with_good = any(map(_means_good, shared))
        if with_good or (len(shared) > 1 and not clear):
            alike = [name for name in sorted(inside) if set(shared) <= inside[name].keys()]
            raise BadDataset(_message(alike, [inside[one][name] for name in shared], location=location))


def _folders_inside(paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """By folder on top: the folders in it at any depth, by comparable name; splits are none of them."""
    found: dict[str, dict[str, str]] = {}
    for folders in {tuple(path.split("/")[:-1]) for path in paths}:
        if folders:
            names = {comparable(name): name for name in folders[1:] if part_of(name) is None}
            found.setdefault(folders[0], {}).update(names)
    return found


def _means_good(name: str) -> bool:
    return comparable(name) == GOOD or is_like_good(name)


def _message(tops: list[str], shared: list[str], *, location: str) -> str:
    these, those = _shown(tops), _shown(shared)
    return (
        f"{location}: the folders {these} each hold {those}, so it is unclear which of them are the classes. If "
        f"{those} are, move their images into one folder per class, or, if {these} are splits, call these train, "
        f"valid and test. If {these} are the classes, put their images directly into them."
    )


def _shown(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(repr(printable(name)) for name in names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
