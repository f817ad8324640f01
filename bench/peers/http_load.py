"""HTTP load: sends images as POST requests over persistent connections, each with one request at a time.

The client shares its cores with the server, so it does little: it writes the requests' bytes itself, and parses only
the status and length of the answers. It reports the share of a core that it used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from shared.errors import Transient

HOST = "127.0.0.1"


@dataclass(slots=True)
class Answers:
    """When each answer had arrived (monotonic seconds, in order), and the client's own share of one core."""

    finished_at: list[float] = field(default_factory=list)
    client_core_share: float = 0.0


def post_all(port: int, path: str, images: Sequence[bytes], *, connections: int) -> Answers:
    """Send every image once. The caller runs this in a process of its own.

    Raises:
        Transient: an answer is not a 200; quotes it.
        OSError, EOFError: the connection failed.
    """
    answers = Answers()
    began, began_cpu_s = time.monotonic(), time.process_time()
    try:
        asyncio.run(_post_all(port, path, images, connections, answers.finished_at))
    except ExceptionGroup as errors:  # from the connections that failed; the others were cancelled
        raise errors.exceptions[0] from None
    answers.client_core_share = (time.process_time() - began_cpu_s) / (time.monotonic() - began)
    return answers


async def _post_all(port: int, path: str, images: Sequence[bytes], connections: int, finished_at: list[float]) -> None:
    left = iter(images)  # shared: each connection takes the next image when it is free
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_post(port, path, left, finished_at))


async def _post(port: int, path: str, images: Iterator[bytes], finished_at: list[float]) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        for image in images:
            head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(image)}\r\n\r\n"
            writer.write(head.encode() + image)
            await writer.drain()
            await _read_answer(reader)
            finished_at.append(time.monotonic())
    finally:
        writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *headers = head.splitlines()
    fields = dict(line.lower().split(": ", 1) for line in headers if line)
    body = await reader.readexactly(int(fields.get("content-length", 0)))
    if status.split()[1] != "200":
        raise Transient(f"the server answered {status}: {body[:500].decode(errors='replace')}")
