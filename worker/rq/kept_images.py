"""Kept images: reads the images that finish.lua has left on the server for the archive."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import redis

from shared.server.raw_connection import RawConnection


class KeptImages:
    """Reads images of jobs that have ended. For one thread."""

    def __init__(self, client: redis.Redis) -> None:
        self._connection = RawConnection(client)

    def read(self, images: Sequence[str], *, delete: Sequence[str]) -> list[bytes | None]:
        """The image files that these keys hold, in order; None for one that is gone. Then deletes the keys in `delete`.

        Raises:
            redis.exceptions.RedisError: the server can't be reached; nothing is deleted.
        """
        files: list[bytes | None] = self._connection.call("MGET", *images)
        if delete:
            with contextlib.suppress(redis.exceptions.RedisError):  # then they expire (`keys.KEPT_IMAGE_S`)
                self._connection.call("UNLINK", *delete)
        return files
