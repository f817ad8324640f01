"""One connection to the server, for the few calls that are made for every batch.

The client's own calls go through a pool, retries with pauses and hooks for observers, which take longer than the
server does. What they'd give is not wanted here: the worker's loops know what to do when the server is away.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Sequence
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

        Text that came from the server, decoded with `surrogateescape`, goes back to it byte for byte.

        A connection that was lost is made anew, once, and the command sent again: it may be run twice.

        Raises:
            redis.exceptions.RedisError: the server can't be reached, or refuses the command.
        """
        return self.send(command, resend=lambda: command)

    def send(self, command: Sequence[Argument], *, resend: Callable[[], Sequence[Argument]]) -> Any:
        """As `call`; after a lost connection the command that `resend` makes is sent instead of the same one."""
        with self._calling:
            try:
                return self._call(command)
            except redis.exceptions.AuthenticationError:
                raise
            except redis.exceptions.ConnectionError:
                return self._call(resend())

    def _call(self, command: Sequence[Argument]) -> Any:
        connection = self._connection
        try:
            try:
                connection.send_command(*command)  # type: ignore[no-untyped-call]  # redis has no types here
            except UnicodeEncodeError:  # before anything was sent; rare, so that the other calls don't pay for it
                connection.send_command(*map(_as_bytes, command))  # type: ignore[no-untyped-call]  # see above
            return connection.read_response()
        except (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError):
            # A failover made it a replica, and need not close what it has: the next call asks anew who is there.
            connection.disconnect()  # type: ignore[no-untyped-call]  # redis has no types here
            raise
        except redis.exceptions.ResponseError:
            raise  # the server's word; the connection is sound
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]  # half an answer may be on its way, and would be taken for the next call's
            raise


def _as_bytes(argument: Argument) -> Argument:
    return argument.encode(errors="surrogateescape") if isinstance(argument, str) else argument


class WireScript:
    """A Lua script on a wire, sent to the server when that doesn't know it."""

    def __init__(self, wire: Wire, source: str) -> None:
        self._wire = wire
        self._source = source
        self._sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, args: Sequence[Argument]) -> Any:
        """Run it; raises as `Wire.call`."""
        command = self._command(args)
        return self._send(command, resend=lambda: command)

    def _command(self, args: Sequence[Argument]) -> list[Argument]:
        return ["EVALSHA", self._sha, 0, *args]

    def _send(self, command: Sequence[Argument], *, resend: Callable[[], Sequence[Argument]]) -> Any:
        try:
            return self._wire.send(command, resend=resend)
        except redis.exceptions.NoScriptError:
            # Not SCRIPT LOAD and the call once more: somebody who flushes scripts now could do so between the two.
            with_source = ["EVAL", self._source, *resend()[2:]]
            return self._wire.send(with_source, resend=lambda: with_source)


class RepeatableScript(WireScript):
    """A script that finds out what an earlier run of the same call did, when that run's answer was lost.

    Its first two arguments are the call's id, which stays the same until the call is answered, and whether the call
    may have been run before (0 or 1). So a call that raised is to be made again.
    """

    def __init__(self, wire: Wire, source: str) -> None:
        super().__init__(wire, source)
        # 24 hex digits: with 8 more that a script appends they have the length of RQ's execution ids.
        self._call_ids = map(f"{os.urandom(8).hex()}{{:08x}}".format, itertools.count())
        self._call_id = next(self._call_ids)
        self._is_repeat = False

    def __call__(self, args: Sequence[Argument]) -> Any:
        """Run it; raises as `Wire.call`."""
        is_repeat, self._is_repeat = self._is_repeat, True
        answer = self._send(
            self._command([self._call_id, int(is_repeat), *args]),
            resend=lambda: self._command([self._call_id, 1, *args]),
        )
        self._call_id, self._is_repeat = next(self._call_ids), False
        return answer
