"""Makes text from outside printable: names of files, ids, labels, texts of errors and whatever else others have chosen.

In: text as Python has it, with lone surrogates for bytes that it could not decode. Out: text that any terminal, log,
file, job and page can hold: it does not control the terminal, does not begin a new line, and does not reverse the text
around it. All other characters stay, so that a name still names its file; files are opened by the original name.

Imports only the standard library, because a worker's small parent process uses this module too.
"""

from __future__ import annotations

import os
import re

# One line on a terminal or in a log has at most this many characters. It is more than the longest path of a file.
MAX_LINE_CHARACTERS = 5_000
_TAIL_SHARE = 4  # a quarter of what is shown of a long text is its end

# ASCII's control characters, those of C1 (a terminal may take U+009B for ESC and `[`), the separators of lines and
# paragraphs, and what changes the direction of the text that follows (https://trojansource.codes).
CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_CONTROL = re.compile(f"[{CONTROLS}]")
_UNDECODED = re.compile("[\udc80-\udcff]+")  # each stands for a byte that Python could not decode
_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str | os.PathLike[str]) -> str:
    """The text; control characters, and bytes that aren't UTF-8, become codes such as `\\n` and `\\xfc`."""
    shown = os.fspath(text)
    if not shown.isascii():
        shown = _SURROGATE.sub(_code, _UNDECODED.sub(_decoded, shown))
    return _CONTROL.sub(_code, shown)


def printable_lines(text: str) -> str:
    """The same for a text of several lines, which stay apart."""
    return "\n".join(map(printable, text.split("\n")))


def one_line(text: object, *, max_characters: int = MAX_LINE_CHARACTERS) -> str:
    """The text, `printable`, and `cut` if it is too long."""
    whole = str(text)
    if len(whole) > 2 * max_characters:  # do not escape what is left out anyway
        shown = printable(whole[:max_characters]) + printable(whole[-max_characters:])
    else:
        shown = printable(whole)
    return cut(shown, max_characters=max_characters, total_characters=len(whole))


def cut(text: str, *, max_characters: int = MAX_LINE_CHARACTERS, total_characters: int | None = None) -> str:
    """The text; if it has more than `max_characters`, its middle is replaced by a remark.

    The remark says how long it was: `total_characters`, if the text was shortened before. The end is kept, because
    messages end with the advice.
    """
    if len(text) <= max_characters:
        return text
    tail = max_characters // _TAIL_SHARE
    length = len(text) if total_characters is None else total_characters
    return f"{text[: max_characters - tail]} [... cut: {length:,} characters in all ...] {text[len(text) - tail :]}"


def _code(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape", "surrogatepass").decode()


def _decoded(found: re.Match[str]) -> str:
    """In a locale without UTF-8, Python does not decode the UTF-8 of a name: such bytes are decoded here."""
    return found.group().encode("ascii", "surrogateescape").decode("utf-8", "backslashreplace")
