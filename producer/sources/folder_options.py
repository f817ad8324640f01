"""How a folder source reads its folder."""

from __future__ import annotations

from dataclasses import dataclass, field

from producer.sources.capture_time import CaptureTimes


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOptions:
    """How a folder is read.

    Args:
        recursive: also read its sub-folders.
        only_new: pass over the files that are there at the start.
        ignored: a sub-folder that is not read, such as the one that files are moved to; its path below the folder.
        max_age_s: a picture taken longer ago is not read, but handed out as too old; None: no picture is too old.
        capture_times: tells when a picture was taken.
    """

    recursive: bool = False
    only_new: bool = False
    ignored: str | None = None
    max_age_s: float | None = None
    capture_times: CaptureTimes = field(default_factory=CaptureTimes)
