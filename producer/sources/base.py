"""The interface of a camera's source of frames: `take` returns frames that are ready. Called by producer/camera.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shared.errors import BadSetting
from shared.file_kind import FileKind, kind_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from producer.sources.file_version import SentFile
    from producer.sources.simulator import SimulatedSource

SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One frame: `data`, or in `problem` why it could not be read.

    `captured_at` is in UTC epoch seconds; None means now. A frame that is `too_old` was not read. `file` is the
    file that the frame comes from, if it comes from one. The `picture_key` of a file's picture is the same after a
    restart, and different for every other picture.
    """

    frame_id: int | str
    name: str
    data: bytes = b""
    problem: str | None = None
    captured_at: float | None = None
    too_old: bool = False
    file: SentFile | None = None
    picture_key: bytes | None = None


class Source(Protocol):
    """A camera's source of frames."""

    def describe(self) -> str:
        """Say what is sent, and where its time of capture comes from. `sortline camera` logs this at its start."""

    def take(self, limit: int, timeout_s: float) -> list[SourceFrame]:
        """Return the next frames, at most `limit`. Waits up to `timeout_s` for the first; returns [] if none comes."""

    def accepted(self, frames: Sequence[SourceFrame]) -> None:
        """Report that these frames are in the queue."""

    def count_missed(self, skipped: int) -> int:
        """Return how many frames were lost since the last call.

        Args:
            skipped: frames that were due, but that the camera did not take. The source counts them if they are lost,
                besides those that it has lost itself.
        """

    def close(self) -> None:
        """Stop watching for frames; `take` may not be called afterwards."""


class SimulatedFrames:
    """The simulator as a source. A frame is always ready. Frames are numbered from 0, including the skipped ones."""

    def __init__(self, simulated: SimulatedSource) -> None:
        self._simulated = simulated
        self._number = 0

    def describe(self) -> str:
        return "simulated bottles; time of capture: when the camera takes the frame"

    def take(self, limit: int, timeout_s: float) -> list[SourceFrame]:
        numbers = range(self._number, self._number + limit)
        self._number += limit
        frames = ((number, self._simulated.frame(number)) for number in numbers)
        return [SourceFrame(number, f"{number} ({frame.source_name})", frame.data) for number, frame in frames]

    def accepted(self, frames: Sequence[SourceFrame]) -> None:
        """Nothing to remember."""

    def count_missed(self, skipped: int) -> int:
        """All skipped frames are lost: the belt has carried them past."""
        self._number += skipped
        return skipped

    def close(self) -> None:
        """Nothing to stop."""


def check_unused(flags: DataclassInstance, *, applies_to: str, source: str) -> None:
    """Raise if a flag is given that doesn't apply to the source.

    Args:
        flags: the flags of one kind of source, with their defaults.
        applies_to: that kind of source, in words.
        source: the source that the user named.

    Raises:
        BadSetting: names the first flag that is not at its default.
    """
    for flag in fields(flags):
        if getattr(flags, flag.name) != flag.default:
            name = flag.name.replace("_", "-")
            raise BadSetting(f"--{name} applies only to {applies_to}, and the source is {source!r}.")


def folder_of(source: str) -> Path:
    """The folder that `--source` names.

    Raises:
        BadSetting: `source` is not a folder. The message says what can be used.
    """
    path = Path(source)
    try:
        kind = kind_of(path) if source else None  # the path of an empty text is the current folder
    except OSError as error:  # e.g. a folder above it may not be read
        raise BadSetting(f"source {source!r} can't be read: {error.strerror}.") from error
    if "://" in source:
        raise BadSetting(
            f"source {source!r}: streams can't be read yet. Use a folder of image files, or {SIMULATED!r}."
        )
    if kind is FileKind.FILE:
        raise BadSetting(
            f"source {source!r} is a file, not a folder: name a folder of image files. Video files can't be read "
            "yet. To send single files, use `sortline upload`."
        )
    if kind is not FileKind.FOLDER:
        raise BadSetting(f"source {source!r} is neither {SIMULATED!r} nor a folder that exists.")
    return path
