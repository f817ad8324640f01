"""States in which a real server refuses commands, each as long as a `with` block lasts. For campaigns and tests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from torture.server.waiting import wait_until


@contextlib.contextmanager
def configured(client: Any, name: str, value: str) -> Iterator[None]:
    """Change a setting of the server during the block."""
    before = client.config_get(name)[name]
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


@contextlib.contextmanager
def unable_to_save(client: Any) -> Iterator[None]:
    """MISCONF: it can't save, because a folder has the name of its file."""
    file = Path(client.config_get("dir")["dir"], client.config_get("dbfilename")["dbfilename"])
    file.unlink(missing_ok=True)  # the server may have saved before
    file.mkdir()
    try:
        with configured(client, "save", "3600 1000000"):  # otherwise the server ignores failed saves
            client.bgsave()
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the save has failed")
            yield
    finally:
        file.rmdir()


@contextlib.contextmanager
def replica(client: Any) -> Iterator[None]:
    """READONLY: the server is a replica of one that does not exist."""
    client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@contextlib.contextmanager
def replica_that_refuses_reads(client: Any) -> Iterator[None]:
    """MASTERDOWN: like `replica`, but it does not serve old data either."""
    with configured(client, "replica-serve-stale-data", "no"), replica(client):
        yield


@contextlib.contextmanager
def busy(client: Any) -> Iterator[None]:
    """BUSY: the server runs a script that ends only when it is killed."""
    caller = redis.Redis(
        connection_pool=redis.ConnectionPool(**client.get_connection_kwargs() | {"socket_timeout": 600})
    )

    def run() -> None:
        with contextlib.suppress(redis.exceptions.ResponseError):  # says that the script was killed
            caller.eval("while true do end", 0)

    def is_busy() -> bool:
        try:
            return not client.ping()
        except redis.exceptions.ResponseError:
            return True

    with configured(client, "busy-reply-threshold", "1"):
        thread = threading.Thread(target=run)
        thread.start()
        try:
            wait_until(is_busy, "the script runs")
            yield
        finally:
            client.script_kill()
            thread.join()
            caller.close()
