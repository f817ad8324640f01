"""Hides what native libraries print. Used around calls of TensorFlow, and when an engine is loaded."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def quiet_native() -> Iterator[None]:
    """Hide what native code writes to descriptors 1 and 2; print it if the block fails.

    TensorFlow's libraries log before they read any setting, and its converter prints to standard output, where a
    command prints its JSON. Only redirecting the descriptors stops both.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    originals = os.dup(1), os.dup(2)
    with _open_capture() as captured:
        os.dup2(captured.fileno(), 1)
        os.dup2(captured.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), originals, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
            if failed:
                captured.seek(0)
                sys.stderr.write(captured.read().decode(errors="replace"))


def _open_capture() -> IO[bytes]:
    """A file in memory, where the system has such files: a worker's container may have no writable folder."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("native-output"), "w+b")
    return tempfile.TemporaryFile()
