"""Opens a zip archive only if it is whole. Used for uploads and datasets."""

from __future__ import annotations

import zipfile
from pathlib import Path

# An archive that was to be split, and fitted into one part, begins with a mark. No zip in it can begin this early.
_MARK_BYTES = 4


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open the archive for reading; the caller closes it.

    An archive that is cut short has lost its directory. If one of its members is a zip, zipfile finds the directory of
    that one instead, and takes all before it for the program of a self-extracting archive. So archives with anything in
    front of their first member are refused, self-extracting ones too.

    Raises:
        zipfile.BadZipFile: it is no zip, is damaged, or its first member does not begin where the file begins.
        OSError: the file can't be read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (NotImplementedError, ValueError) as error:  # a later version of the format; a name that isn't UTF-8
        raise zipfile.BadZipFile(str(error)) from error
    unlisted_bytes = min((member.header_offset for member in archive.infolist()), default=archive.start_dir)
    if unlisted_bytes > _MARK_BYTES:
        archive.close()
        raise zipfile.BadZipFile(
            f"its directory does not list its first {unlisted_bytes:,} bytes, so it is cut short, or something stands "
            "in front of the archive"
        )
    return archive
