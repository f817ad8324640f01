"""Makes names of files printable: a name may be any bytes on Linux, and a locale may not be UTF-8.

In: a name as Python gives it, with lone surrogates for the bytes that it could not decode. Out: text that any terminal,
file, job and page can hold. Used wherever a name is shown or written; files are opened by the original name.
"""

from __future__ import annotations

import os


def printable(name: str | os.PathLike[str]) -> str:
    """The name; bytes that aren't UTF-8, and control characters, become codes such as `\\xfc`."""
    text = os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
