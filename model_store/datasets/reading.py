"""How a dataset was read: what of its layout and its names was understood, merged or left out.

None of it is an error, but somebody may have meant it otherwise, so `train`, `evaluate` and `models check-dataset` tell
all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from unicodedata import normalize

from model_store.bundle.policy import GOOD
from model_store.datasets.given_splits import Part
from shared.printable import printable
from shared.system_files import describe_left_out

_SHOWN = 10


@dataclass(frozen=True)
class Reading:
    """What was understood of a dataset's layout and names.

    `wrapper`: the folders around everything that were looked through. `splits`: the images of each given split, empty
    if there is none. `merged`: the names as written of each class that was written in several ways, or otherwise than
    it is called. `like_good`: classes that seem to mean `good`, but are read as defects. `left_out`: hidden files, and
    those of the system, by kind. `remarks`: further sentences.
    """

    wrapper: str = ""
    splits: dict[Part, int] = field(default_factory=dict)
    merged: dict[str, tuple[str, ...]] = field(default_factory=dict)
    like_good: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """A line for each fact, to print."""
        lines = [self._wrapper_line(), self._splits_line(), *self._merged_lines(), self._like_good_line()]
        left_out = describe_left_out(self.left_out) if self.left_out else ""
        return [printable(line) for line in (*lines, *self.remarks, left_out) if line]

    def _wrapper_line(self) -> str:
        return f"read in the folder {self.wrapper}, which holds everything else" if self.wrapper else ""

    def _splits_line(self) -> str:
        if not self.splits:
            return ""
        train, validation, test = (self.splits.get(part, 0) for part in ("train", "validation", "test"))
        return (
            f"train, valid and test are read as splits, not as classes: {train:,} images to train on, {validation:,} "
            f"to validate with, {test:,} held out (never trained on)"
        )

    def _merged_lines(self) -> list[str]:
        lines = []
        for name, written in self.merged.items():
            # Names that differ only in Unicode's form look the same, so these are written in codes.
            others = [ascii(one) if normalize("NFC", one) == name else repr(one) for one in written if one != name]
            shown = f"{', '.join(others[:_SHOWN])} {'is' if len(others) == 1 else 'are'}"
            mend = "" if name == GOOD else ". To keep them apart, give them names that differ in a letter"
            lines.append(f"one class: {shown} read as {name!r}{mend}")
        return lines

    def _like_good_line(self) -> str:
        if not self.like_good:
            return ""
        names = ", ".join(map(repr, self.like_good))
        is_none = any(name.casefold() == "none" for name in self.like_good)
        missing = "; if it means that the label is missing, leave the cell empty" if is_none else ""
        return (
            f"{names} may mean that a bottle has no defect, but only `{GOOD}` does: read as a class like others, which "
            f"`multi` takes for a defect. If it means `{GOOD}`, give --good-class {self.like_good[0]!r}{missing}"
        )
