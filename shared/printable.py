"""Makes names of files printable: a name may be any bytes on Linux, and a locale may not be UTF-8.

In: a name as Python gives it, with lone surrogates for the bytes that it could not decode. Out: text that any terminal,
file, job and page can hold, on one line. All other characters stay, so that the text still names the file. Used
wherever a name is shown or written; files are opened by the original name.
"""

from __future__ import annotations

import os

from shared.log_format import escape_controls


def printable(name: str | os.PathLike[str]) -> str:
    """The name; bytes that aren't UTF-8, and control characters, become codes such as `\\xfc`."""
    text = os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return escape_controls(text)
