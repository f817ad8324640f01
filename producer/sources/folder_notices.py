"""The log lines of a folder camera about its folder; each is logged once, or once per change."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from producer.sources.folder_listing import Listing
from producer.sources.picture_files import PICTURE_SUFFIXES, is_side_file, suffix_of

log = logging.getLogger("producer.sources.folder")

MANY_FILES = 10_000
# At most this many kinds of files are named in the log when the first file of the kind is passed over.
_MAX_KINDS = 10


class FolderNotices:
    """Logs what a user should know about one folder."""

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
        """Report that the folder can't be read now."""
        if not self._is_unreachable:
            log.warning("folder %s can't be read: %s. Trying again until it can.", self._folder, error.strerror)
        self._is_unreachable = True

    def listed(self, listing: Listing) -> None:
        """Report that the folder was read."""
        if self._is_unreachable:
            log.warning("folder %s can be read again", self._folder)
        self._is_unreachable = False
        self.passed_over(listing.other_names)
        for subfolder in listing.subfolders:
            self.subfolder(subfolder)
        if len(listing.files) >= MANY_FILES and not self._has_many:
            self._has_many = True
            hint = "" if self._disposes else ", or use --delete or --move-to"
            count = f"{len(listing.files):,}"
            log.warning("folder %s holds %s pictures: remove old ones now and then%s.", self._folder, count, hint)

    def subfolder(self, name: str) -> None:
        """Report a sub-folder."""
        if not self._recursive and not self._has_subfolder:
            self._has_subfolder = True
            log.warning(
                "sub-folders of %s, such as %r, are passed over: to read them, add --recursive.", self._folder, name
            )

    def passed_over(self, names: Iterable[str]) -> None:
        """Report files that are not pictures by their names."""
        for name in names:
            kind = suffix_of(name)
            if is_side_file(name) or kind in self._kinds or len(self._kinds) >= _MAX_KINDS:
                continue
            self._kinds.add(kind)
            what = f"files *{kind}" if kind else "files without a suffix"
            log.warning(
                "%s, such as %r, are passed over: the name of a picture ends in %s.",
                what,
                name,
                ", ".join(PICTURE_SUFFIXES),
            )

    def only_new(self, files: int) -> None:
        """Report how many files were there at the start, and are not sent."""
        log.info("%s files in %s were there before and are not sent (--only-new)", f"{files:,}", self._folder)
