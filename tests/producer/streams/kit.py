"""What the tests of the readers of result streams share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from producer.streams.group_reader import ResultGroupReader
from producer.streams.reader import ResultReader
from tests.kit import PATIENCE_S, wait_until
from tests.producer.kit import publish, sort_result


def publish_frames(client: redis.Redis, *frames: tuple[str, int]) -> None:
    """Publish a result for each line and frame, of the job `<line>-<frame>`."""
    for line, frame_id in frames:
        publish(client, sort_result(f"{line}-{frame_id}", line=line, frame_id=frame_id))


def fill(client: redis.Redis, *frame_ids: int, line: str = "a") -> None:
    """Publish results in entries with the ids `<frame>-0`."""
    for frame_id in frame_ids:
        publish(client, sort_result(f"{line}-{frame_id}", line=line, frame_id=frame_id), entry_id=f"{frame_id}-0")


def frames(reader: ResultReader | ResultGroupReader, stop: threading.Event, count: int) -> list[int | str | None]:
    """The next `count` frames. The last one is handled, and by a group acknowledged, too."""
    found: list[int | str | None] = []
    for result in reader.follow(stop):
        found.append(result.frame_id)
        if len(found) == count:
            stop.set()
    stop.clear()
    return found


@contextmanager
def patient_stop() -> Iterator[threading.Event]:
    """An event that ends `follow`. It sets itself after so long that a missing result will never come."""
    stop = threading.Event()
    timer = threading.Timer(PATIENCE_S, stop.set)
    timer.start()
    yield stop
    timer.cancel()


@contextmanager
def once_a_reader_waits(client: redis.Redis, act: Callable[[], object]) -> Iterator[None]:
    """A thread that calls `act` as soon as a reader waits for new entries. It has ended when the block ends."""

    def run() -> None:
        wait_until(lambda: any("b" in found["flags"] for found in client.client_list()), "a reader waits")
        act()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
