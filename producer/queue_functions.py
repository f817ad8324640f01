"""Calls the server's functions (shared/server/functions), and loads them if the server lacks them and the user may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import redis

from shared import keys
from shared.errors import BadSetting, RedisUnavailable
from shared.masking import masked_url
from shared.server import functions
from shared.server.error_translation import is_missing_function, lacks_functions
from shared.server.functions import Function

Argument = str | bytes | int | float

# Loading the functions takes one more try, and finding out that the server has none another.
_MAX_TRIES = 3


class QueueFunctions:
    """Calls the functions on one server. May be shared by threads."""

    def __init__(self, client: redis.Redis, redis_url: str) -> None:
        """Does not call the server."""
        self._client = client
        self._redis_url = redis_url
        self._has_functions = True  # until the server says that it knows none

    def ask(self, names: Sequence[str], arguments: Sequence[Argument]) -> list[Any]:
        """Call `ask`; returns its answer.

        Raises:
            redis.exceptions.RedisError: the server can't be reached, or refuses.
            RedisUnavailable: nobody has loaded the functions, and this user may not.
            BadSetting: the server has no functions, and this user may not run scripts.
        """
        return self._call(Function.ASK, names, arguments)

    def submit(
        self, names: Sequence[str], arguments: Sequence[Argument], *, images: Mapping[str, bytes], image_ttl_s: int
    ) -> list[Any]:
        """Write the images and call `submit` in one transaction; returns the function's answer.

        The images expire even if the function does not run.

        Args:
            names: the function's keys.
            arguments: the function's other arguments.
            images: by job id.
            image_ttl_s: seconds after which the images expire.

        Raises:
            as `ask`.
        """
        return self._call(Function.SUBMIT, names, arguments, images=images, image_ttl_s=image_ttl_s)

    def _call(
        self,
        function: Function,
        names: Sequence[str],
        arguments: Sequence[Argument],
        *,
        images: Mapping[str, bytes] = MappingProxyType({}),
        image_ttl_s: int = 1,
    ) -> list[Any]:
        for _ in range(_MAX_TRIES):
            try:
                with self._client.pipeline(transaction=bool(images)) as pipeline:
                    for job_id, image in images.items():
                        pipeline.set(keys.image(job_id), image, ex=image_ttl_s)
                    command = (*self._command(function), len(names), *names, *arguments)
                    pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis has no types here
                    return list(pipeline.execute()[-1])
            except redis.exceptions.ConnectionError:
                self._has_functions = True  # the server may come back as a newer one
                raise
            except redis.exceptions.ResponseError as error:
                refused = error
            if is_missing_function(refused):
                self._load(images)
            elif lacks_functions(refused):
                self._has_functions = False
            elif not self._has_functions and isinstance(refused, redis.exceptions.NoPermissionError):
                raise self._needs_eval() from refused
            else:
                raise refused
        raise RedisUnavailable(
            f"the Redis server at {masked_url(self._redis_url)} loses its functions again and again."
        )

    def _command(self, function: Function) -> tuple[str, str]:
        """The beginning of the command that calls the function.

        A script's source is sent each time. With EVALSHA, a server that did not know the script would keep the images.
        """
        if self._has_functions:
            return "FCALL", functions.name_of(function)
        return "EVAL", functions.script(function)

    def _load(self, written: Iterable[str]) -> None:
        try:
            functions.load(self._client)
        except redis.exceptions.NoPermissionError as error:
            self._delete_images(written)
            raise RedisUnavailable(
                f"the Redis server at {masked_url(self._redis_url)} lacks Sortline's functions (version "
                f"{functions.version()}), and this user may not load them. A worker of this release loads them when it "
                "starts; an administrator can with `sortline functions load`."
            ) from error

    def _delete_images(self, job_ids: Iterable[str]) -> None:
        """Delete the images of jobs that were not enqueued, so that they don't fill the server while nobody can send.

        A job that was enqueued before, and is sent again, keeps its image.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            written = list(job_ids)
            for job_id in written:
                pipeline.hget(keys.rq_job(job_id), "status")
            for job_id, status in zip(written, pipeline.execute(raise_on_error=False), strict=True):
                if status is None:
                    pipeline.unlink(keys.image(job_id))
            pipeline.execute()

    def _needs_eval(self) -> BadSetting:
        return BadSetting(
            f"the Redis server at {masked_url(self._redis_url)} knows no functions (FCALL; Redis has it from 7.0 on), "
            "so producers run a script, and this user may not: grant it +eval (ACL SETUSER), or update the server."
        )
