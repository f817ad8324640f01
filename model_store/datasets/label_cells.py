"""What stands in a table's column of labels: one label, or several in one of the ways in which people join them.

`no cap|disfigured` is Sortline's way. Spreadsheets and scripts also write `no cap;disfigured`, `no cap,disfigured`,
`["no cap", "disfigured"]` and `['no cap', 'disfigured']`. A list is read by our own small reader, which runs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from model_store.datasets.label_names import LABEL_SEPARATOR
from shared.errors import BadDataset

# A label of 64 characters takes at most 400 as codes; this is for more labels than a bottle can have.
_MAX_CELL_CHARACTERS = 20_000
_OTHER_SEPARATORS = (";", ",")
_ITEM = re.compile(r"""\s*(?:'((?:[^'\\]|\\['"\\])*)'|"((?:[^"\\]|\\['"\\])*)")\s*(?:,|$)""")
_ESCAPE = re.compile(r"""\\(['"\\])""")


class LabelCells:
    """Splits the cells of one table, and counts those that were joined by something other than `|`."""

    def __init__(self) -> None:
        self.joined_by: dict[str, int] = {}  # cells by how they hold their labels, without `|`
        self._first: dict[str, str] = {}  # where each of these, and `|`, came first

    def split(self, cell: str, *, location: str) -> list[str]:
        """The labels in a cell.

        Raises:
            BadDataset: it begins like a list but is none, or the table joins labels in several ways, so that one of
                these characters may be a part of a name.
        """
        text = cell.strip()
        if len(text) > _MAX_CELL_CHARACTERS:
            raise BadDataset(f"{location}: {len(text):,} characters in the labels of one image. Correct the line.")
        if text[:1] in ("[", "(", "{") and text[-1:] in ("]", ")", "}"):
            self._count("in a list")
            return _list_items(text, location=location)
        found = [separator for separator in (LABEL_SEPARATOR, *_OTHER_SEPARATORS) if separator in text]
        if not found:
            return [text]
        for separator in found:
            self._first.setdefault(separator, location)
        if len(self._first) > 1:
            self._raise_several(text, location)
        if found != [LABEL_SEPARATOR]:
            self._count(f"joined by `{found[0]}`")
        return text.split(found[0])

    def _count(self, what: str) -> None:
        self.joined_by[what] = self.joined_by.get(what, 0) + 1

    def _raise_several(self, text: str, location: str) -> None:
        (one, place), (other, _) = list(self._first.items())[:2]
        before = f"in {place.rpartition(', ')[2]} it has `{one}`" if place != location else f"it has `{one}` too"
        raise BadDataset(
            f"{location}: {text[:80]!r} has `{other}`, and {before}, so it is unclear which of them joins labels. Join "
            f"labels by `{LABEL_SEPARATOR}` in the whole table, and rename labels that hold one of these characters."
        )


def check_single(labels: Iterable[str], *, location: str) -> None:
    """Raise BadDataset if a label of a JSON list still holds what joins labels."""
    for label in labels:
        if any(separator in label for separator in (LABEL_SEPARATOR, *_OTHER_SEPARATORS)):
            raise BadDataset(
                f"{location}: {label[:80]!r} is one item of a list, but seems to be several labels: make each an item."
            )


def _list_items(text: str, *, location: str) -> list[str]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        value = _python_list(text)
    if isinstance(value, dict) and list(value) == ["choices"]:  # as annotation tools write the answers of one image
        value = value["choices"]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        check_single(value, location=location)
        return value
    raise BadDataset(
        f"{location}: {text[:80]!r} is not a list of labels in quotes. Write the labels joined by `{LABEL_SEPARATOR}`."
    )


def _python_list(text: str) -> list[str] | None:
    """The strings of `['a', "b"]` or `('a', 'b')`; None if it is anything else."""
    if text[0] + text[-1] not in ("[]", "()"):
        return None
    items, position, inner = [], 0, text[1:-1].rstrip().removesuffix(",")
    while position < len(inner):
        found = _ITEM.match(inner, position)
        if found is None:
            return None
        items.append(_ESCAPE.sub(r"\1", found[1] if found[1] is not None else found[2]))
        position = found.end()
    return items
