"""Finds the files that a table names, also where its names differ in ways that mean the same file.

A name is looked for as it is written, then with `/` for back slashes, then in one form of Unicode and case, then by the
file's name without folders, and at last without the image's suffix. A form that fits several files finds none of them.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from model_store.datasets.comparable import comparable_path
from model_store.datasets.dataset_files import DatasetFiles, is_image_name

_SLASHES: Final = "with `/` for back slashes"
_ABSOLUTE: Final = "relative to the dataset's folder"
_FORM: Final = "in another Unicode form or case"
_BARE: Final = "in a folder"
_STEM: Final = "with an image's suffix"
_AMBIGUOUS: Final = ""


class FileLookup:
    """The files of a dataset by name. `found_otherwise` counts the names that were found in another form, by form."""

    def __init__(self, files: DatasetFiles, *, within: str = "") -> None:
        """`within`: the folder, with a `/` at the end, that the table lies in; names are relative to it or to the top.

        A name may also begin with the folders that wrap the dataset.
        """
        self._within = within
        self._root = files.root
        self._top = f"{Path(posixpath.abspath(files.path)).as_posix().rstrip('/')}/"
        self._names = frozenset(files.names)
        self._own = [name for name in files.names if name.startswith(within)]
        self._indexes: dict[str, dict[str, str]] = {}
        self.found_otherwise: Counter[str] = Counter()

    def find(self, written: str) -> str | None:
        """The file that the table means by `written`, None if there is none, or if it could be several."""
        text = written.strip()
        if (name := self._exact(text)) is not None:
            return name
        slashed = text.replace("\\", "/")
        if slashed != text and (name := self._exact(slashed)) is not None:
            return self._counted(name, _SLASHES)
        if slashed.startswith(self._top) and (name := self._exact(slashed.removeprefix(self._top))) is not None:
            return self._counted(name, _ABSOLUTE)
        plain = PurePosixPath(slashed).as_posix()
        candidates = [self._within + plain, plain, plain.removeprefix(self._root)]
        for form, key, wanted in (
            (_FORM, comparable_path, candidates),
            (_STEM, _stem, candidates),
            (_BARE, _bare, [plain] if "/" not in plain else []),
            (f"{_BARE}, {_STEM}", _bare_stem, [plain] if "/" not in plain else []),
        ):
            index = self._index(form, key)
            for one in wanted:
                if found := index.get(comparable_path(one)):
                    return self._counted(found, form)
        return None

    def describe(self) -> Iterable[str]:
        """A sentence about the names that were found in another form."""
        for form, count in sorted(self.found_otherwise.items()):
            files = "1 file was" if count == 1 else f"{count:,} files were"
            yield f"{files} found {form}: the table writes the names otherwise than the folder"

    def _exact(self, text: str) -> str | None:
        plain = PurePosixPath(text).as_posix()
        for name in (self._within + plain, plain, plain.removeprefix(self._root)):
            if name in self._names:
                return name
        return None

    def _counted(self, name: str, form: str) -> str:
        self.found_otherwise[form] += 1
        return name

    def _index(self, form: str, key: Callable[[str], str | None]) -> dict[str, str]:
        """The files by key; a key of several files has the value _AMBIGUOUS. Made when it is first needed."""
        if form not in self._indexes:
            index: dict[str, str] = {}
            for name in self._own:
                if (word := key(name)) is not None:
                    index[word] = _AMBIGUOUS if word in index else name
            self._indexes[form] = index
        return self._indexes[form]


def _stem(name: str) -> str | None:
    return comparable_path(str(PurePosixPath(name).with_suffix(""))) if is_image_name(name) else None


def _bare(name: str) -> str | None:
    return comparable_path(PurePosixPath(name).name)


def _bare_stem(name: str) -> str | None:
    return comparable_path(PurePosixPath(name).stem) if is_image_name(name) else None
