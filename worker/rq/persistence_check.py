"""Checks at the start whether the server persists its data, and how much memory it takes. It only logs warnings."""

from __future__ import annotations

import logging
from typing import Any, cast

import redis

from shared.server.memory_options import HASH_MAX_LISTPACK_VALUE, MEMORY_OPTIONS, STREAM_NODE_MAX_BYTES

log = logging.getLogger("sortline.worker")


def warn_if_not_durable(client: redis.Redis) -> None:
    """Log how the server could lose queued images (by eviction, or when its process ends), or waste memory.

    How it wastes memory is logged only if the user may read the server's configuration. The worker's role may not,
    because CONFIG GET also shows passwords.
    """
    info = client.info()
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        log.warning(
            "the server may evict queued images when its memory is full (maxmemory-policy %s): "
            "CONFIG SET maxmemory-policy noeviction",
            policy,
        )
    if info.get("aof_enabled") == 0:
        log.warning(
            "the server keeps no append-only file (appendonly no), so queued jobs are lost when it ends: "
            "CONFIG SET appendonly yes, unless that doesn't matter here"
        )
    try:
        config = cast("dict[Any, Any]", client.config_get(*MEMORY_OPTIONS))
    except redis.exceptions.ResponseError:
        return
    _warn_of_large_jobs(config)


def _warn_of_large_jobs(config: dict[Any, Any]) -> None:
    stream_bytes, hash_bytes = config.get(STREAM_NODE_MAX_BYTES), config.get(HASH_MAX_LISTPACK_VALUE)
    options = []
    if stream_bytes is not None and not 0 < int(stream_bytes) <= int(MEMORY_OPTIONS[STREAM_NODE_MAX_BYTES]):
        options.append(STREAM_NODE_MAX_BYTES)  # 0 means no bound
    if hash_bytes is not None and int(hash_bytes) < int(MEMORY_OPTIONS[HASH_MAX_LISTPACK_VALUE]):
        options.append(HASH_MAX_LISTPACK_VALUE)
    if options:
        log.warning(
            "finished jobs take up to 2.6 times the memory that they need on this server (docs/sizing.md): %s",
            " and ".join(f"CONFIG SET {name} {MEMORY_OPTIONS[name]}" for name in options),
        )
