"""Connections to the Redis server. Nothing here blocks at import or on construction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis

from shared.errors import BadSetting, ServerAway
from shared.settings import masked

# Long enough for a stop-the-world save on the server, short enough to notice that it is gone.
SOCKET_TIMEOUT_S = 10.0


def connect(redis_url: str, *, socket_timeout_s: float = SOCKET_TIMEOUT_S) -> redis.Redis:
    """A client with a pool of its own; connects on first use.

    RQ raises the socket timeout of any pool it is handed to minutes, so threads that need their own
    timeout call this themselves.

    Raises:
        BadSetting: the URL can't be parsed.
    """
    try:
        return redis.Redis.from_url(
            redis_url,
            socket_timeout=socket_timeout_s,
            socket_connect_timeout=5.0,
            socket_keepalive=True,
            health_check_interval=30,
        )
    except ValueError:
        # Not the error's text: for a password that is not escaped it quotes a piece of it.
        raise BadSetting(
            f"redis_url {masked(redis_url)!r} can't be used: write redis://[user:password@]host:port/db (or rediss://, "
            "unix://), with %2F for a / in the password, and so on."
        ) from None


def check(client: redis.Redis, redis_url: str) -> None:
    """Ask the server for a sign of life; raises as `server_errors`."""
    with server_errors(redis_url):
        client.ping()


@contextlib.contextmanager
def server_errors(redis_url: str) -> Iterator[None]:
    """Tells a server that is away from one that refuses the login or the database; the block talks to it.

    Raises:
        ServerAway: no answer; names the server.
        BadSetting: the server refuses the login, or has no such database.
    """
    try:
        yield
    except redis.exceptions.AuthenticationError as error:  # a ConnectionError too, but waiting does not mend it
        raise BadSetting(
            f"the Redis server at {masked(redis_url)} refuses the login: {_text(error)}. "
            "Give user and password in redis_url."
        ) from error
    except redis.exceptions.ResponseError as error:
        if "DB index" not in str(error):
            raise
        raise BadSetting(
            f"the Redis server at {masked(redis_url)} has no such database: {_text(error)}. Most have 0 to 15; end "
            "redis_url with the number of one."
        ) from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise ServerAway(
            f"no Redis server answers at {masked(redis_url)}: {_text(error)}. Start one, or set SORTLINE_REDIS_URL "
            "or --redis-url."
        ) from error


def _text(error: Exception) -> str:
    """Some of the client's messages end with a full stop, some don't."""
    return str(error).rstrip(".")
