"""The embedded Valkey server of `demo`, `bench` and the tests; it ends when the caller ends."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shared.ports import free_port
from shared.server.valkey import StartWatch, valkey_command
from shared.subprocesses import SupervisedProcess

_LOG_READ_BYTES = 65_536


@contextlib.contextmanager
def embedded_server(**config: str) -> Iterator[str]:
    """A Valkey server on a free port of the loopback address, for as long as the block lasts.

    Nothing is persisted. The server runs with MEMORY_OPTIONS. Ctrl-C goes to the caller alone, so that workers can
    drain first. When the caller is killed, the server stops too. If the caller forks, the server runs until the fork
    ends or execs.

    Args:
        config: settings of valkey.conf, with `_` in place of `-`.

    Yields:
        the server's URL, e.g. `redis://127.0.0.1:40123/0`.

    Raises:
        NotFound: the `demo` extra is not installed.
        RedisUnavailable: the server did not start; the message says why.
    """
    port = free_port()
    command = valkey_command(port=port, options=config)
    # The supervisor removes the folder, even if this process is killed.
    folder = Path(tempfile.mkdtemp(prefix="sortline-valkey-"))
    command += ["--dir", str(folder)]
    with (
        tempfile.TemporaryFile() as log,
        SupervisedProcess(command, output=log, errors=log, remove=folder) as process,
    ):
        StartWatch(process, read_log=lambda: _read(log)).wait_until_loaded(port=port, folder=folder)
        yield f"redis://127.0.0.1:{port}/0"


def _read(log: IO[bytes]) -> str:
    """The end of the log. Not read with `seek`, which would move the position at which the server writes."""
    size = os.fstat(log.fileno()).st_size
    return os.pread(log.fileno(), _LOG_READ_BYTES, max(0, size - _LOG_READ_BYTES)).decode(errors="replace")
