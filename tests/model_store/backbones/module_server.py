"""A real HTTP server on loopback that serves modules as TF-Hub does, or with the faults that a test asks for."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Page:
    """The answer at one path. `says_bytes` is the Content-Length to claim, `silent_s` the wait before the body."""

    body: bytes
    status: int = 200
    location: str = ""
    says_bytes: int | None = None
    silent_s: float = 0.0


@dataclass
class ModuleServer:
    """The pages to serve, by path, and the requests received (path and query)."""

    url: str
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def serve(self, path: str, body: bytes) -> str:
        """Serve `body` at `path`; returns the full URL."""
        self.pages[path] = Page(body)
        return self.url + path


@contextmanager
def module_server() -> Iterator[ModuleServer]:
    """Run the server during the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append(self.path)
            page = server.pages.get(urlsplit(self.path).path, Page(b"no such module", status=404))
            self.send_response(page.status)
            if page.location:
                self.send_header("Location", page.location)
            self.send_header("Content-Length", str(len(page.body) if page.says_bytes is None else page.says_bytes))
            self.end_headers()
            self.wfile.flush()
            time.sleep(page.silent_s)
            self.wfile.write(page.body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = ModuleServer(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def tar_gz(folder: Path, *, below: str = ".") -> bytes:
    """A folder as a `.tar.gz`, its files below `below`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(folder, arcname=below)
    return out.getvalue()


def tar_of(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    """A `.tar.gz` of these members; each member that is a file has `content`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
