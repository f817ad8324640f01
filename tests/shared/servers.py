"""States that make a real server refuse, each left again at the end of its block."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from tests.deploy.manifests import missing_tool

PATIENCE_S = 60.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


@contextlib.contextmanager
def configured(client: redis.Redis, name: str, value: str) -> Iterator[None]:
    """A setting of the server, changed for the block."""
    before = client.config_get(name)[name]
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


@contextlib.contextmanager
def unable_to_save(client: redis.Redis) -> Iterator[None]:
    """MISCONF: the file that it saves to can't be written, as a folder has its name."""
    file = Path(client.config_get("dir")["dir"], client.config_get("dbfilename")["dbfilename"])
    file.mkdir()
    try:
        with configured(client, "save", "3600 1000000"):  # without it the server doesn't mind saves that fail
            client.bgsave()
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the save has failed")
            yield
    finally:
        file.rmdir()


@contextlib.contextmanager
def replica(client: redis.Redis) -> Iterator[None]:
    """READONLY: the replica of a server that isn't there."""
    client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@contextlib.contextmanager
def replica_that_refuses_reads(client: redis.Redis) -> Iterator[None]:
    """MASTERDOWN."""
    with configured(client, "replica-serve-stale-data", "no"), replica(client):
        yield


@contextlib.contextmanager
def busy(client: redis.Redis) -> Iterator[None]:
    """BUSY: a script that ends only when it is killed."""
    caller = redis.Redis(
        connection_pool=redis.ConnectionPool(**client.get_connection_kwargs() | {"socket_timeout": 600})
    )

    def run() -> None:
        with contextlib.suppress(redis.exceptions.ResponseError):  # that it was killed
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


def free_port() -> int:
    """One that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def needed(tool: str, package: str) -> str:
    """Path of a tool; without it the test is skipped at a desk, and fails in CI."""
    path = shutil.which(tool)
    if path is None:
        missing_tool(f"{tool} is not installed: apt-get install {package}")
    return path


@contextlib.contextmanager
def debian_server(folder: Path, *arguments: str) -> Iterator[None]:
    """Debian's Redis, which unlike the embedded server speaks TLS and has a Unix socket, at `folder`/socket."""
    server = needed("redis-server", "redis-server")
    options = ["--port", "0", "--save", "", "--dir", str(folder), "--unixsocket", str(folder / "socket"), *arguments]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    try:
        wait_until((folder / "socket").exists, "the server has its socket")
        yield
    finally:
        process.terminate()
        process.wait()


def self_signed_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        needed("openssl", "openssl"),
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key
