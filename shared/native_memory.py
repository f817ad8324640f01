"""Controls how much freed memory this process keeps. Needs glibc; with another C library these calls do nothing."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The values up to which glibc raises the two thresholds by itself, in steps that depend on what was freed so far.
_KEPT_BYTES, _MAPPED_FROM_BYTES = 64 * 1024**2, 32 * 1024**2


def give_back_free_memory() -> None:
    """Return freed memory to the system now. Otherwise the process keeps it."""
    _glibc("malloc_trim")(0)


def keep_free_memory() -> None:
    """Keep freed memory, up to 64 MiB for each thread, for later allocations. Call this once, at the start.

    Images are allocated and freed by the megabyte. If their memory is returned to the kernel between two batches, the
    kernel clears it page by page when the next batch comes. With glibc's defaults this happens in some runs of a
    worker, and takes a tenth of its time.
    """
    mallopt = _glibc("mallopt")
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@functools.cache
def _glibc(name: str) -> Callable[..., object]:
    try:
        function: Callable[..., object] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # musl and macOS have none; Windows has no such library
        return lambda *_: None
    return function
