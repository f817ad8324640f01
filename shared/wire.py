"""One connection to the server, for the few calls that are made for every batch.

The client's own calls go through a pool, retries with pauses and hooks for observers, which take longer than the
server does. What they'd give is not wanted here: the worker's loops know what to do when the server is away.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import redis

Argument = str | bytes | int | float


class Wire:
    """A connection with the settings of `client`, made on first use. May be called by any thread, one at a time."""

    def __init__(self, client: redis.Redis) -> None:
        self._connection = client.connection_pool.make_connection()
        self._calling = threading.Lock()

    def call(self, *command: Argument) -> Any:
        """What the server answers, as it is.

        A connection that was lost is made anew, once, and the command sent again: it may be run twice.

        Raises:
            redis.exceptions.RedisError: the server can't be reached, or refuses the command.
        """
        with self._calling:
            try:
                return self._call(command)
            except redis.exceptions.AuthenticationError:
                raise
            except redis.exceptions.ConnectionError:
                return self._call(command)

    def _call(self, command: Sequence[Argument]) -> Any:
        connection = self._connection
        try:
            connection.send_command(*command)  # type: ignore[no-untyped-call]  # redis has no types here
            return connection.read_response()
        except redis.exceptions.ReadOnlyError:
            # A failover made it a replica, and need not close what it has: the next call asks anew who is there.
            connection.disconnect()  # type: ignore[no-untyped-call]  # redis has no types here
            raise
        except redis.exceptions.ResponseError:
            raise  # the server's word; the connection is sound
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]  # half an answer may be on its way, and would be taken for the next call's
            raise


class WireScript:
    """A Lua script on a wire, sent to the server when that doesn't know it."""

    def __init__(self, wire: Wire, source: str) -> None:
        self._wire = wire
        self._source = source
        self._sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, args: Sequence[Argument]) -> Any:
        """Run it; raises as `Wire.call`."""
        try:
            return self._wire.call("EVALSHA", self._sha, 0, *args)
        except redis.exceptions.NoScriptError:
            self._wire.call("SCRIPT", "LOAD", self._source)
            return self._wire.call("EVALSHA", self._sha, 0, *args)
