"""Durability: does the server keep what it is given? Asked once at start; a warning is all that comes of it."""

from __future__ import annotations

import logging
from typing import Any, cast

import redis

log = logging.getLogger("sortline.worker")


def warn_of_loss(client: redis.Redis) -> None:
    """Log how the server could lose queued images: by evicting them, or with its own process.

    Says nothing where the server doesn't let us ask (managed services refuse CONFIG).
    """
    try:
        config = cast("dict[Any, Any]", client.config_get("maxmemory*", "appendonly"))
    except redis.exceptions.ResponseError:
        return
    policy = config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        log.warning(
            "the server may evict queued images when its memory is full (maxmemory-policy %s): "
            "CONFIG SET maxmemory-policy noeviction",
            policy,
        )
    if config.get("appendonly") == "no":
        log.warning(
            "the server keeps no log of what it was given (appendonly no), so what is queued is lost when it "
            "ends: CONFIG SET appendonly yes, unless that doesn't matter here"
        )
