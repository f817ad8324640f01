"""What tests of servers need: ports, tools, Debian's own server and certificates."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.deploy.manifests import missing_tool

PATIENCE_S = 60.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


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
