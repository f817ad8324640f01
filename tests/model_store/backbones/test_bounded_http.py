"""Servers whose answers have no end do not hold a download for ever."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.backbones import bounded_http
from model_store.backbones.bounded_http import GRACE_S, MIN_BYTES_PER_S, PacedStream, UnboundedAnswer
from model_store.backbones.download import download
from model_store.runtime.progress import ProgressSteps
from shared.errors import BadInput, BadSetting, NotFound

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextlib.contextmanager
def server(begin: bytes, again: bytes = b"") -> Iterator[str]:
    """A server that answers each request with `begin`, and then `again` and again until nobody listens."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(4096)
                    connection.sendall(begin)
                    while again:
                        connection.sendall(again * 100)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/m.tar.gz"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def fetch(url: str, target: Path, *, max_bytes: int = 1_000_000) -> bytes:
    download(url, target / "file", steps=ProgressSteps(), max_bytes=max_bytes)
    return (target / "file").read_bytes()


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 100 Continue\r\n", b"A: b\r\n"),
        (CHUNKED + b"2\r\nab\r\n0\r\n", b"A: b\r\n"),
        (CHUNKED, b"1;" + b"x" * 1000 + b"\r\na\r\n"),
    ],
    ids=["100 without end", "headers of 100", "trailers", "extensions of chunks"],
)
def test_lines_without_end_are_refused(tmp_path: Path, begin: bytes, again: bytes) -> None:
    with (
        server(begin, again) as url,
        pytest.raises(NotFound, match=r"more than 1,000,000 bytes of headers|100 headers"),
    ):
        fetch(url, tmp_path)


def test_ordinary_chunks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more lines than are allowed without a body."""
    monkeypatch.setattr(bounded_http, "MAX_LINE_BYTES", 200)
    chunks = b"10\r\n" + b"x" * 16 + b"\r\n"
    with server(b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + chunks * 500 + b"0\r\n\r\n") as url:
        assert fetch(url, tmp_path) == b"x" * 8000


@pytest.mark.parametrize("length", ["9" * 300, "9" * 5000, "1000001"])
def test_a_length_beyond_the_limit_is_refused_before_a_byte_is_read(tmp_path: Path, length: str) -> None:
    answer, match = OK + f"Content-Length: {length}\r\n\r\n".encode(), "serves more than 1,000,000 bytes"
    with server(answer) as url, pytest.raises(BadInput, match=match) as refused:
        fetch(url, tmp_path)
    assert len(str(refused.value)) < 200


def test_what_a_server_says_is_quoted_in_part(tmp_path: Path) -> None:
    with (
        server(b"HTTP/1.1 404 " + b"no" * 20_000 + b"\r\n\r\n") as url,
        pytest.raises(NotFound, match="404 no") as failed,
    ):
        fetch(url, tmp_path)
    assert len(str(failed.value)) < 600


@pytest.mark.parametrize("login", ["user:hunter2@", ":hunter2@", "hunter2@"])
def test_a_login_in_the_address_is_refused_in_words(tmp_path: Path, login: str) -> None:
    with pytest.raises(BadSetting, match="a user or password in an address is not used") as refused:
        fetch(f"http://{login}127.0.0.1:9/m", tmp_path)
    assert "hunter2" not in str(refused.value)
    answer = f"HTTP/1.1 302 F\r\nLocation: http://{login}127.0.0.1:9/m\r\n\r\n".encode()
    match = r"it redirects to http://127\.0\.0\.1/m with a user"
    with server(answer) as url, pytest.raises(NotFound, match=match) as failed:
        fetch(url, tmp_path)
    assert "hunter2" not in str(failed.value)


def test_a_stream_that_trickles_is_refused_after_a_while() -> None:
    now = [0.0]
    stream = PacedStream(io.FileIO("/dev/zero"), clock=lambda: now[0])
    buffer = bytearray(1)
    assert stream.readinto(buffer) == 1
    now[0] = GRACE_S
    assert stream.readinto(buffer) == 1
    now[0] = GRACE_S + 1
    with pytest.raises(UnboundedAnswer, match="3 bytes in 61 s, less than 1,000 a second"):
        stream.readinto(buffer)
    assert stream.readinto(bytearray(MIN_BYTES_PER_S * 62)) == MIN_BYTES_PER_S * 62
