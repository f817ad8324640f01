"""What a folder camera tells its user about the folder; each once, or once per change."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from producer.sources.folder_listing import Listing
from producer.sources.picture_files import PICTURE_SUFFIXES, is_side_file, suffix_of

log = logging.getLogger("producer.sources.folder")

MANY_FILES = 10_000
# Kinds of files that are named when they are first passed over.
_MAX_KINDS = 10


class FolderNotices:
    """Log lines about one folder."""

    def __init__(self, folder: Path, *, recursive: bool, disposes: bool) -> None:
        """`recursive`: sub-folders are read; `disposes`: accepted files are moved or deleted."""
        self._folder = folder
        self._recursive = recursive
        self._disposes = disposes
        self._kinds: set[str] = set()
        self._is_unreachable = False
        self._has_many = False
        self._has_subfolder = False

    def unreachable(self, error: OSError) -> None:
        """The folder can't be read now."""
        if not self._is_unreachable:
            log.warning("folder %s can't be read: %s. Trying again until it can.", self._folder, error.strerror)
        self._is_unreachable = True

    def listed(self, listing: Listing) -> None:
        """The folder was read."""
        if self._is_unreachable:
            log.warning("folder %s can be read again", self._folder)
        self._is_unreachable = False
        self.passed_over(listing.other_names)
        for subfolder in listing.subfolders:
            self.subfolder(subfolder)
        if len(listing.files) >= MANY_FILES and not self._has_many:
            self._has_many = True
            mend = "" if self._disposes else ", or use --delete or --move-to"
            log.warning("folder %s holds %s pictures: clear it now and then%s.", self._folder, len(listing.files), mend)

    def subfolder(self, name: str) -> None:
        """There is a sub-folder."""
        if not self._recursive and not self._has_subfolder:
            self._has_subfolder = True
            log.warning("sub-folders of %s, as %r, are not looked into: add --recursive.", self._folder, name)

    def passed_over(self, names: Iterable[str]) -> None:
        """These files are not pictures by their names."""
        for name in names:
            kind = suffix_of(name)
            if is_side_file(name) or kind in self._kinds or len(self._kinds) >= _MAX_KINDS:
                continue
            self._kinds.add(kind)
            what = f"files *{kind}" if kind else "files without a suffix"
            log.warning(
                "%s, as %r, are passed over: the name of a picture ends in %s.", what, name, ", ".join(PICTURE_SUFFIXES)
            )

    def only_new(self, files: int) -> None:
        """So many files were there at the start, and are not sent."""
        log.info("%s files in %s were there before and are not sent (--only-new)", f"{files:,}", self._folder)
