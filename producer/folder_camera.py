"""Makes the source of a folder camera from the flags of `sortline camera`, which calls it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from producer.sources.base import folder_of
from producer.sources.capture_time import CaptureTimes, StampPattern
from producer.sources.disposal import Disposal
from producer.sources.folder import FolderSource
from producer.sources.folder_options import FolderOptions
from producer.sources.journal import SentJournal, journal_path
from shared.errors import BadSetting
from shared.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderFlags:
    """The flags of `sortline camera` that apply only to a folder."""

    stamp_pattern: str | None = None
    capture_lag_ms: float = 0.0
    recursive: bool = False
    only_new: bool = False
    move_to: Path | None = None
    delete: bool = False


def open_folder(
    source: str, flags: FolderFlags, settings: Settings, *, line: str, camera: str, max_age_s: float | None
) -> FolderSource:
    """Open the folder as the source of this camera.

    Args:
        source: the folder, as the user named it.
        flags: how the folder is read, and what happens to accepted files.
        settings: give the journal's folder and the maximum size of a file.
        line, camera: the camera that sends the folder; the journal is its own.
        max_age_s: older files are not read; None: all files are read.

    Raises:
        BadSetting: the folder or a flag can't be used, or another process already sends this folder for this camera.
    """
    folder = folder_of(source)
    if flags.delete and flags.move_to is not None:
        raise BadSetting("--delete and --move-to can't both be given: an accepted file is either deleted or moved.")
    pattern = None if flags.stamp_pattern is None else StampPattern(flags.stamp_pattern)
    disposal = None
    if flags.delete or flags.move_to is not None:
        disposal = Disposal(folder, move_to=flags.move_to)
        disposal.check()
    options = FolderOptions(
        recursive=flags.recursive,
        only_new=flags.only_new,
        ignored=None if flags.move_to is None else os.path.relpath(flags.move_to.resolve(), folder.resolve()),
        max_age_s=max_age_s,
        capture_times=CaptureTimes(
            pattern=pattern, lag_ms=flags.capture_lag_ms, tolerance_s=settings.clock_tolerance_s
        ),
    )
    return FolderSource(
        folder,
        max_image_bytes=settings.max_image_bytes,
        options=options,
        journal=SentJournal(journal_path(settings.state_path, line=line, camera=camera, folder=folder)),
        disposal=disposal,
    )
