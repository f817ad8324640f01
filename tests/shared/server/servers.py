"""What tests of servers need: Debian's own server and certificates."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.kit import PATIENCE_S, needed_tool, wait_until


@contextlib.contextmanager
def debian_server(folder: Path, *arguments: str) -> Iterator[None]:
    """Debian's Redis, which unlike the embedded server speaks TLS and has a Unix socket, at `folder`/socket."""
    server = needed_tool("redis-server", package="redis-server")
    options = ["--port", "0", "--save", "", "--dir", str(folder), "--unixsocket", str(folder / "socket"), *arguments]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(folder / "socket"), "the server answers")
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(path: Path) -> bool:
    """Whether a server answers on its socket, which is there before it listens; it may answer that it wants a login."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        try:
            connection.connect(os.path.relpath(path))  # a whole path may be too long for a socket
            connection.sendall(b"PING\r\n")
            return connection.recv(1) in (b"+", b"-")
        except (FileNotFoundError, ConnectionError):
            return False


def self_signed_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        needed_tool("openssl", package="openssl"),
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
