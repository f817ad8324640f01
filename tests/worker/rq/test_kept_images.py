"""Reading and deleting the images that the server keeps for the archive, and how full the server is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from shared.server.connection import connect
from shared.settings import Settings
from worker.rq.kept_images import KeptImages


@pytest.fixture
def images(settings: Settings) -> KeptImages:
    return KeptImages(connect(settings.redis_url))


@pytest.fixture
def maxmemory(client: redis.Redis) -> Iterator[Callable[[int], None]]:
    """A function that bounds the server's memory, in bytes. There is no bound after the test."""
    yield lambda count_bytes: client.config_set("maxmemory", count_bytes)
    client.config_set("maxmemory", 0)


def test_images_are_read_in_order_and_deleted(images: KeptImages, client: redis.Redis) -> None:
    client.mset({"a": b"1", "c": b"3"})
    assert images.read(["c", "b", "a"]) == [b"3", None, b"1"]
    images.delete(["a", "b", "c"])
    assert client.keys() == []
    images.delete([])


def test_the_share_of_the_servers_memory_that_is_in_use(
    images: KeptImages, client: redis.Redis, maxmemory: Callable[[int], None]
) -> None:
    maxmemory(50_000_000)
    assert images.memory_share() == pytest.approx(client.info("memory")["used_memory"] / 50_000_000, rel=0.2)
    maxmemory(0)
    assert images.memory_share() == 0


def test_a_user_who_may_not_ask_takes_the_server_for_empty(
    settings: Settings,
    client: redis.Redis,
    maxmemory: Callable[[int], None],
    restricted: Callable[[str], None],
) -> None:
    """Images wait there all the same, as on a server without maxmemory."""
    maxmemory(100_000_000)
    images = KeptImages(connect(settings.redis_url.replace("redis://", "redis://w:secret@")))
    assert images.memory_share() > 0
    restricted("~* -info")
    assert images.memory_share() == 0
