"""Helpers for tests of the folder source: sources that are closed afterwards, a source on a share, and files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from producer.sources import folder as folder_module
from producer.sources.base import SourceFrame
from producer.sources.folder import FolderSource
from tests.kit import PATIENCE_S
from tests.producer.kit import jpeg

MakeSource = Callable[..., FolderSource]
MAX_IMAGE_BYTES = 100_000
# Different pictures, each whole.
PICTURES = [jpeg(gray) for gray in range(0, 250, 10)]


@contextmanager
def sources_of(folder: Path) -> Iterator[MakeSource]:
    """Makes sources of the folder, by default with the kernel's reports; all are closed at the end."""
    sources = []

    def make(**options: Any) -> FolderSource:
        sources.append(FolderSource(folder, **{"max_image_bytes": MAX_IMAGE_BYTES, "watch": True, **options}))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


class ShareSource(FolderSource):
    """A source on a share where the kernel reports nothing. Its time passes only while it waits."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.now = 1000.0
        with mock.patch.object(folder_module, "is_local", return_value=False):
            super().__init__(
                folder, **{"max_image_bytes": MAX_IMAGE_BYTES, "clock": lambda: self.now, "watch": None, **options}
            )

    def _listen(self, timeout_s: float) -> None:
        self.now += timeout_s


class Clock:
    """Seconds that pass only in `take_after`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def take_after(self, source: FolderSource, seconds: float) -> list[SourceFrame]:
        self.now += seconds
        return source.take(10, 0.0)


def started(make_source: MakeSource, **options: object) -> FolderSource:
    """A source of a folder that is still empty."""
    source = make_source(**options)
    assert source.take(1, 0.0) == []
    return source


def take(source: FolderSource, count: int) -> list[SourceFrame]:
    """The next `count` frames. Each may take up to `PATIENCE_S`."""
    frames: list[SourceFrame] = []
    while len(frames) < count:
        found = source.take(count - len(frames), PATIENCE_S)
        assert found, f"only {names(frames)} came"
        frames += found
    return frames


def take_new(source: FolderSource, folder: Path) -> list[SourceFrame]:
    """All frames that come before that of a marker file, which this creates and removes."""
    marker = folder / "zz-marker.jpg"
    hidden = folder / ".marker"
    hidden.write_bytes(PICTURES[-1])
    hidden.rename(marker)
    frames: list[SourceFrame] = []
    while not frames or frames[-1].name != marker.name:
        frames += take(source, 1)
    marker.unlink()
    return frames[:-1]


def names(frames: list[SourceFrame]) -> list[str]:
    return [frame.name for frame in frames]


def write(path: Path, data: bytes = PICTURES[0], *, age_s: float = 0.0, modified_ns: int | None = None) -> Path:
    """Create a file that is complete when it gets its name, last modified `age_s` ago or at `modified_ns`."""
    hidden = path.with_name(f".{path.name[:100]}.new")
    hidden.write_bytes(data)
    if age_s or modified_ns is not None:
        at_ns = hidden.stat().st_mtime_ns - int(age_s * 1e9) if modified_ns is None else modified_ns
        os.utime(hidden, ns=(at_ns, at_ns))
    return hidden.rename(path)
