"""The forms in which names are compared that people, cameras and systems write in several ways.

How much is left out depends on what the names are for: two files may differ by a hyphen, two classes may not, and
headers and splits are known words, which are written in still more ways. Two names are alike if their forms are equal.
"""

from __future__ import annotations

import re
import unicodedata

BLANKS = re.compile("[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
# Only between letters and digits, so that the names 1 and -1 stay two.
_SEPARATORS = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")
_TRAILING = re.compile(r"^_+|_+$")
_SIGNS = re.compile(r"[\W_]+")


def comparable(name: str) -> str:
    """The form of a class's name: case, kinds of separators, and Unicode's ways to write a letter don't count."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    blank = _SEPARATORS.sub(" ", " ".join(BLANKS.split(folded)).strip())
    return _TRAILING.sub("", blank) or blank


def comparable_word(text: str) -> str:
    """The form of a word such as a header: only its letters and digits count, in any case."""
    return _SIGNS.sub("", text.casefold())


def comparable_path(name: str) -> str:
    """The form of a file's name: case, and Unicode's ways to write an accent, don't count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
