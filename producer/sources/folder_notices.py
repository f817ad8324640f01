"""The log lines of a folder camera about its folder; each is logged once, or once per change."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from producer.sources.folder_listing import Listing
from producer.sources.picture_files import PICTURE_SUFFIXES, is_side_file, suffix_of

log = logging.getLogger("producer.sources.folder")  # its caller: one name for what is logged about a folder

MANY_FILES = 10_000
# At most this many kinds of files are named in the log when the first file of the kind is passed over.
_MAX_KINDS = 10
# At most this many files and sub-folders that can't be read are named in the log.
_MAX_NAMES = 10


class FolderNotices:
    """Logs what a user should know about one folder."""

    def __init__(self, folder: Path, *, recursive: bool, disposes: bool) -> None:
        """`recursive`: sub-folders are read; `disposes`: accepted files are moved or deleted."""
        self._folder = folder
        self._recursive = recursive
        self._disposes = disposes
        self._kinds: set[str] = set()
        self._is_unreachable = False
        self._unreadable: set[str] = set()
        self._has_many = False
        self._has_subfolder = False
        self._has_linked_folder = False
        self._unusable: set[str] = set()

    def scanned_only(self, error: OSError | None, *, interval_s: float) -> None:
        """Report that the kernel does not watch the folder any more: an error at a limit, or None for a share."""
        if error is None:
            reason = "is not on a local disk any more, but e.g. on a share that was mounted there"
        else:
            limits = "fs.inotify.max_user_watches and fs.inotify.max_user_instances"
            reason = f"can't be watched ({error.strerror}; raise {limits})"
        log.warning("folder %s %s: new files are found by a scan every %g s", self._folder, reason, interval_s)

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
        for name in listing.linked_folders:
            self.linked_folder(name)
        for name, what in listing.unusable.items():
            self.unusable(name, what)
        for name, error in listing.problems:
            self.unreadable(name, error)
        self._unreadable &= {name for name, _ in listing.problems}
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

    def linked_folder(self, name: str) -> None:
        """Report a link to a folder."""
        if not self._has_linked_folder:
            self._has_linked_folder = True
            log.warning(
                "links to folders in %s, such as %r, are not followed: to read such a folder, name it as the source of "
                "another camera.",
                self._folder,
                name,
            )

    def unreadable(self, name: str, error: OSError) -> None:
        """Report a file or sub-folder that can't be read now."""
        if name not in self._unreadable and len(self._unreadable) < _MAX_NAMES:
            self._unreadable.add(name)
            log.warning("%r can't be read: %s. Trying again until it can.", str(self._folder / name), error.strerror)

    def unusable(self, name: str, what: str) -> None:
        """Report a name of a picture that belongs to something else; one of each kind."""
        if what not in self._unusable:
            self._unusable.add(what)
            log.warning("%r is passed over: it is %s. So are others of this kind.", str(self._folder / name), what)

    def no_picture(self, name: str, *, appeared: bool) -> None:
        """Report a file that is no picture by its name, or a link to a folder that has just `appeared`."""
        if appeared and (self._folder / name).is_dir():
            self.linked_folder(name)
        else:
            self.passed_over([name])

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
        log.info("files in %s that were there before and are not sent (--only-new): %s", self._folder, f"{files:,}")
