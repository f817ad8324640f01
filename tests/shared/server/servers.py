"""What tests of servers need: Debian's own server and certificates."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.kit import needed_tool, wait_until


@contextlib.contextmanager
def debian_server(folder: Path, *arguments: str) -> Iterator[None]:
    """Debian's Redis, which unlike the embedded server speaks TLS and has a Unix socket, at `folder`/socket."""
    server = needed_tool("redis-server", package="redis-server")
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
