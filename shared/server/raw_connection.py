"""One connection to the server, for the few calls that are made for every batch.

The client library's own calls go through a pool, retries with pauses, and hooks for observers; these take longer than
the server itself. A worker doesn't need them, because its loops handle an unavailable server themselves.
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


class RawConnection:
    """A connection with the settings of `client`, opened on first use. May be shared by threads: calls take turns."""

    def __init__(self, client: redis.Redis) -> None:
        self._connection = client.connection_pool.make_connection()
        self._calling = threading.Lock()

    def call(self, *command: Argument) -> Any:
        """Send a command; returns the server's answer, unparsed.

        Text that came from the server and was decoded with `surrogateescape` goes back to it byte for byte.

        If the connection was lost, it is opened again, once, and the command is sent again. So the command may run
        twice.

        Raises:
            redis.exceptions.RedisError: the server can't be reached, or refuses the command.
        """
        return self.send(command, resend=lambda: command)

    def send(self, command: Sequence[Argument], *, resend: Callable[[], Sequence[Argument]]) -> Any:
        """As `call`, but after a lost connection it sends the command that `resend` returns."""
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
            except UnicodeEncodeError:  # raised before anything was sent; rare, so other calls skip the conversion
                connection.send_command(*map(_as_bytes, command))  # type: ignore[no-untyped-call]  # see above
            return connection.read_response()
        except (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError):
            # A failover made this server a replica, and may leave connections open: the next call connects again.
            connection.disconnect()  # type: ignore[no-untyped-call]  # redis has no types here
            raise
        except redis.exceptions.ResponseError:
            raise  # an answer of the server; the connection is intact
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]  # the rest of an answer would be taken for the next call's
            raise


def _as_bytes(argument: Argument) -> Argument:
    return argument.encode(errors="surrogateescape") if isinstance(argument, str) else argument


class RawScript:
    """A Lua script on a raw connection; its source is sent when the server doesn't know the script."""

    def __init__(self, connection: RawConnection, source: str) -> None:
        self._connection = connection
        self._source = source
        self._sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, args: Sequence[Argument]) -> Any:
        """Run it; raises as `RawConnection.call`."""
        command = self._command(args)
        return self._send(command, resend=lambda: command)

    def _command(self, args: Sequence[Argument]) -> list[Argument]:
        return ["EVALSHA", self._sha, 0, *args]

    def _send(self, command: Sequence[Argument], *, resend: Callable[[], Sequence[Argument]]) -> Any:
        try:
            return self._connection.send(command, resend=resend)
        except redis.exceptions.NoScriptError:
            # Not SCRIPT LOAD and EVALSHA: somebody could flush the scripts between the two.
            with_source = ["EVAL", self._source, *resend()[2:]]
            return self._connection.send(with_source, resend=lambda: with_source)


class RepeatableScript(RawScript):
    """A script that recognizes a repeated call whose first answer was lost, and finds out what the first run did.

    The script's first two arguments are the call's id, which stays the same until the call is answered, and whether the
    call may have run before (0 or 1). If a call raises, make it again.
    """

    def __init__(self, connection: RawConnection, source: str) -> None:
        super().__init__(connection, source)
        # 24 hex digits. A script appends 8 more to make an execution id, which then has the length of RQ's.
        self._call_ids = map(f"{os.urandom(8).hex()}{{:08x}}".format, itertools.count())
        self._call_id = next(self._call_ids)
        self._is_repeat = False

    def __call__(self, args: Sequence[Argument]) -> Any:
        """Run it; raises as `RawConnection.call`."""
        is_repeat, self._is_repeat = self._is_repeat, True
        answer = self._send(
            self._command([self._call_id, int(is_repeat), *args]),
            resend=lambda: self._command([self._call_id, 1, *args]),
        )
        self._call_id, self._is_repeat = next(self._call_ids), False
        return answer
