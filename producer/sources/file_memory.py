"""Remembers which files of a folder were handed out or sent. Called by the folder source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from producer.sources.file_version import FileVersion, SentFile
from producer.sources.file_versions import FileVersions
from producer.sources.journal import SentJournal, oldest_absent


class FileMemory:
    """Tells a new picture from one that was handed out or sent before.

    Sent files are in the journal. The other files that were handed out are forgotten when the process ends: those that
    wait for the server, were refused or too old, are broken, or can't be read.
    """

    def __init__(
        self,
        journal: SentJournal,
        *,
        version_of: Callable[[str], FileVersion | None],
        digest_of: Callable[[str], bytes | None],
    ) -> None:
        """
        Args:
            journal: the files that were sent.
            version_of: returns a file's version; None if the file is gone. May raise OSError.
            digest_of: returns the digest of a file's content; None if the file can't be read.
        """
        self._journal = journal
        self._version_of = version_of
        self._digest_of = digest_of
        self._handed_out = FileVersions()
        self._broken: dict[str, FileVersion] = {}
        self._unreadable: dict[str, FileVersion] = {}
        self._digests: dict[str, bytes] = {}  # of the content that was handed out last
        self._before_restore: dict[str, FileVersion] = {}  # of files in flight that got an earlier time meanwhile

    def recognizes(self, file: SentFile) -> bool:
        """Whether this picture was handed out or sent, perhaps under another name or with an earlier time.

        A broken file is recognized only while it does not change at all: a copy may get the time of its original when
        it is complete.
        """
        if self._broken.get(file.name) == file.version:
            return True
        handed_out = self._handed_out.get(file.name)
        known = handed_out or self._journal.version(file.name)
        if known == file.version or self._follow_rename(file):
            return True
        if known is None or not (file.version.is_restored(known) and self._has_same_content(file.name)):
            return False
        if handed_out is None:
            self._journal.add([file])
        else:
            self._before_restore.setdefault(file.name, handed_out)
            self._handed_out.put(file)
        return True

    def was_sent(self, file: SentFile) -> bool:
        """Whether this version was accepted by the queue."""
        return self._journal.has(file)

    def hand_out(self, file: SentFile, *, is_broken: bool, digest: bytes | None = None) -> None:
        """Remember a file that is handed out.

        Args:
            file: the file.
            is_broken: whether it is not a whole picture.
            digest: of its content; None if it was not read.
        """
        self._unreadable.pop(file.name, None)
        self._digests.pop(file.name, None)
        self._before_restore.pop(file.name, None)
        if digest is not None:
            self._digests[file.name] = digest
        if is_broken:
            self._broken[file.name] = file.version
        else:
            self._broken.pop(file.name, None)
            self._handed_out.put(file)

    def accept(self, files: Iterable[SentFile]) -> list[SentFile]:
        """Record files as sent; returns them, with the names and times that they got meanwhile."""
        files = [self._as_it_is_now(file) for file in files]
        self._journal.add(files)
        for file in files:
            if self._handed_out.get(file.name) == file.version:
                self._handed_out.pop(file.name)
                self._before_restore.pop(file.name, None)
        return files

    def note_unreadable(self, file: SentFile) -> bool:
        """Remember a file that can't be read, so that it is tried again; returns whether this is new."""
        is_new = self._unreadable.get(file.name) != file.version
        self._unreadable[file.name] = file.version
        return is_new

    def is_unreadable(self, name: str) -> bool:
        """Whether a file of this name could not be read when it was tried last."""
        return name in self._unreadable

    def forget(self, names: Sequence[str]) -> None:
        """Forget files that are gone for good: a file that comes under one of these names later is new."""
        for name in names:
            self._handed_out.pop(name)
            self._broken.pop(name, None)
            self._unreadable.pop(name, None)
            self._digests.pop(name, None)
            self._before_restore.pop(name, None)
        # In one transaction: a clean-up may remove thousands of files.
        self._journal.forget(names)

    def forget_oldest(self, present: Collection[str]) -> None:
        """Limit how many files are remembered that are not in the folder (`present`)."""
        for names in (self._handed_out, self._broken, self._unreadable, self._digests, self._before_restore):
            for name in oldest_absent(names, present):
                names.pop(name)
        self._journal.forget_oldest(present)

    def _follow_rename(self, file: SentFile) -> bool:
        """Whether this is a known picture under a new name; if so, it is known under this name from now on.

        Some cameras write `tmp_1.jpg`, and then rename it to `1.jpg`; others rename the folder of a day. If the former
        name still has this version, the two are hard links, and count as two pictures.
        """
        in_flight, sent = self._handed_out.name_of(file.version), self._journal.name_of(file.version)
        former = in_flight or sent
        if former is None or self._still_has(former, file.version):
            return False
        if in_flight is not None:
            self._handed_out.pop(in_flight)
            self._handed_out.put(file)
        else:
            self._journal.forget([former])
            self._journal.add([file])
        if former in self._digests:
            self._digests[file.name] = self._digests.pop(former)
        return True

    def _has_same_content(self, name: str) -> bool:
        """Whether the file still has the content that was handed out, as far as is known; False after a restart."""
        known = self._digests.get(name)
        return known is not None and self._digest_of(name) == known

    def _still_has(self, name: str, version: FileVersion) -> bool:
        try:
            return self._version_of(name) == version
        except OSError:
            return True

    def _as_it_is_now(self, file: SentFile) -> SentFile:
        """A file that is in flight, with the name and time that it was last seen with."""
        latest = self._handed_out.get(file.name)
        if latest == file.version:
            return file
        if latest is not None and self._before_restore.get(file.name) == file.version:
            return SentFile(file.name, latest)
        return SentFile(self._handed_out.name_of(file.version) or file.name, file.version)
