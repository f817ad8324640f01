"""Kept images: reads the images that finish.lua has left on the server for the archive."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

import redis

from shared import keys
from shared.server.raw_connection import RawConnection


class KeptImages:
    """Reads images of jobs that have ended. For one thread."""

    def __init__(self, client: redis.Redis) -> None:
        self._connection = RawConnection(client)

    def read(self, job_ids: Sequence[str], *, delete: Collection[str]) -> list[bytes | None]:
        """The image files of these jobs, in order; None for one that is gone. Deletes those of the jobs in `delete`.

        Raises:
            redis.exceptions.RedisError: the server can't be reached; nothing is deleted.
        """
        images: list[bytes | None] = self._connection.call("MGET", *map(keys.image, job_ids))
        if delete:
            with contextlib.suppress(redis.exceptions.RedisError):  # then they expire (`keys.KEPT_IMAGE_S`)
                self._connection.call("UNLINK", *map(keys.image, delete))
        return images
