"""Kept images: reads the images that finish.lua has left on the server for the archive."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from shared.server.raw_connection import RawConnection

_KEYS_PER_CALL = 1000


class KeptImages:
    """Reads and deletes the images of jobs that have ended. For one thread."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._connection = RawConnection(client)

    def read(self, images: Sequence[str]) -> list[bytes | None]:
        """The image files that these keys hold, in order; None for one that is gone.

        Raises:
            redis.exceptions.RedisError: the server can't be reached.
        """
        files: list[bytes | None] = self._connection.call("MGET", *images)
        return files

    def delete(self, images: Sequence[str]) -> None:
        """Delete these keys.

        Raises:
            redis.exceptions.RedisError: the server can't be reached; those that are left expire (`keys.KEPT_IMAGE_S`).
        """
        for start in range(0, len(images), _KEYS_PER_CALL):
            self._connection.call("UNLINK", *images[start : start + _KEYS_PER_CALL])

    def memory_share(self) -> float:
        """The share of the server's `maxmemory` that is in use; 0 if it has none, or if this login may not ask.

        Raises:
            redis.exceptions.RedisError: the server can't be reached.
        """
        try:
            info = self._client.info("memory")
        except redis.exceptions.ResponseError:  # INFO is @dangerous, so an ACL user may lack it
            return 0.0
        return float(info["used_memory"] / info["maxmemory"]) if info["maxmemory"] else 0.0
