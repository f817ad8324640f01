"""The check of the server at a worker's start: whether it answers, fits, and lets this user do a worker's work."""

from __future__ import annotations

from shared import keys
from shared.server.connection import check, connect
from shared.server.error_translation import server_errors

# The first command of every script of ours. As a producer or viewer it is refused.
_FIRST_STEP = f"return redis.call('DEL', '{keys.NEVER_WRITTEN}')"


def check_server(redis_url: str) -> None:
    """Check the server.

    Raises:
        RedisUnavailable, BadSetting: as `shared.server.connection.check`; BadSetting also if the user has no right to
            run the worker's scripts.
    """
    client = connect(redis_url)
    check(client, redis_url)
    with client, server_errors(redis_url):
        client.eval(_FIRST_STEP, 0)
