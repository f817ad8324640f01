"""The images that wait for an archive: how many are read, what they count, and when they are given up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import redis

from shared.server.connection import connect
from shared.settings import Settings
from tests.kit import ManualClock
from worker.archive.backlog import (
    MAX_SERVER_SHARE,
    READ_BYTES,
    RECORD_BYTES,
    RESULT_WEIGHT,
    SERVER_CHECK_S,
    Backlog,
    WaitingImage,
)
from worker.observe.metrics import Metrics
from worker.observe.supervisor import StageThread, Supervisor
from worker.rq import kept_images as kept_images_module
from worker.rq.kept_images import KeptImages

RESULT = b"{}"


class Server(KeptImages):
    """Kept images on a real server, of which a test can say how full it is, and that it is away."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.share = 0.0
        self.is_away = False
        self.asked = 0

    def read(self, images: Sequence[str]) -> list[bytes | None]:
        self._answer()
        return super().read(images)

    def delete(self, images: Sequence[str]) -> None:
        self._answer()
        super().delete(images)

    def memory_share(self) -> float:
        self.asked += 1
        self._answer()
        return self.share

    def _answer(self) -> None:
        if self.is_away:
            raise redis.exceptions.ConnectionError("away")


@pytest.fixture
def server(settings: Settings) -> Server:
    return Server(connect(settings.redis_url))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backlog(server: Server, clock: ManualClock) -> Backlog:
    return Backlog(server, max_bytes=10_000_000, monotonic=clock)


@pytest.fixture
def thread() -> StageThread:
    return StageThread("archive", Supervisor(Metrics(), redis_url="redis://here"))


def wait(backlog: Backlog, client: redis.Redis, key: str, size_bytes: int, *, is_kept_for_us: bool = True) -> None:
    """Have an image wait that is on the server."""
    client.set(key, bytes(size_bytes))
    backlog.add(WaitingImage(RESULT, key, size_bytes, is_kept_for_us))


def read_sizes(backlog: Backlog, thread: StageThread) -> list[int | None]:
    """The sizes of the images that one call reads."""
    return [None if image is None else len(image) for _, image in backlog.read(thread, timeout_s=0.0)]


@pytest.mark.parametrize(
    ("sizes", "first"),
    [
        ([READ_BYTES // 2] * 5, 2),
        ([READ_BYTES - 1, 2 * READ_BYTES, 1], 2),  # READ_BYTES and one image, however large
        ([2 * READ_BYTES, 1], 1),
    ],
)
def test_one_call_reads_no_more_than_a_worker_may_hold(
    backlog: Backlog, client: redis.Redis, thread: StageThread, sizes: list[int], first: int
) -> None:
    """deploy/README.md counts on it."""
    for number, size_bytes in enumerate(sizes):
        wait(backlog, client, f"k{number}", size_bytes)
    assert read_sizes(backlog, thread) == sizes[:first]
    assert sorted(client.keys()) == [f"k{number}".encode() for number in range(first, len(sizes))]
    rest: list[int | None] = []
    while backlog.count:
        rest += read_sizes(backlog, thread)
    assert rest == sizes[first:]
    assert client.keys() == []
    assert read_sizes(backlog, thread) == []


def test_an_image_that_the_server_keeps_for_others_is_not_deleted(
    backlog: Backlog, client: redis.Redis, thread: StageThread
) -> None:
    wait(backlog, client, "ours", 1)
    wait(backlog, client, "failed", 1, is_kept_for_us=False)
    assert read_sizes(backlog, thread) == [1, 1]
    wait(backlog, client, "ours", 1)
    backlog.add(WaitingImage(RESULT, "failed", 1, is_kept_for_us=False))
    assert backlog.give_up() == 2
    assert client.keys() == [b"failed"]


def test_an_image_that_was_read_is_not_lost_when_its_deletion_fails(
    backlog: Backlog, server: Server, client: redis.Redis, thread: StageThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the deletion was lost. If the image were read again, it would be gone."""

    def delete_unanswered(images: Sequence[str]) -> None:
        client.delete(*images)
        raise redis.exceptions.ConnectionError("away")

    monkeypatch.setattr(server, "delete", delete_unanswered)
    wait(backlog, client, "k0", 7)
    assert read_sizes(backlog, thread) == [7]
    assert read_sizes(backlog, thread) == []


def test_what_was_taken_waits_on_while_the_server_is_away(
    backlog: Backlog, server: Server, client: redis.Redis, thread: StageThread
) -> None:
    wait(backlog, client, "k0", 1)
    server.is_away = True
    for _ in range(2):
        with pytest.raises(redis.exceptions.ConnectionError):
            backlog.read(thread, timeout_s=0.0)
    wait(backlog, client, "k1", 2)
    server.is_away = False
    assert [read_sizes(backlog, thread) for _ in range(3)] == [[1], [2], []]


def test_what_was_taken_is_given_up_with_the_rest(
    backlog: Backlog, server: Server, client: redis.Redis, thread: StageThread
) -> None:
    wait(backlog, client, "k0", 10_000_000)
    server.is_away = True
    with pytest.raises(redis.exceptions.ConnectionError):
        backlog.read(thread, timeout_s=0.0)
    assert backlog.give_up() == 1  # the server deletes it in a while
    assert not backlog.is_full
    server.is_away = False
    assert read_sizes(backlog, thread) == []


@pytest.mark.parametrize("is_gone", [False, True])
def test_room_is_given_back_for_every_image_that_is_read(
    backlog: Backlog, client: redis.Redis, thread: StageThread, is_gone: bool
) -> None:
    for _ in range(3):
        wait(backlog, client, "k0", 10_000_000)
        assert backlog.is_full
        if is_gone:
            client.delete("k0")
        assert read_sizes(backlog, thread) == [None if is_gone else 10_000_000]
        assert not backlog.is_full


def test_results_count_too(server: Server) -> None:
    """They wait in the worker's memory, also those of small images."""
    image = WaitingImage(bytes(100), "k0", 5000, is_kept_for_us=True)
    assert image.counted_bytes == 5000 + RESULT_WEIGHT * (100 + RECORD_BYTES)
    backlog = Backlog(server, max_bytes=2 * image.counted_bytes)
    backlog.add(image)
    assert not backlog.is_full
    backlog.add(image)
    assert backlog.is_full and backlog.count == 2


def test_all_that_wait_are_given_up(
    backlog: Backlog, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, thread: StageThread
) -> None:
    """In several calls: one call with 64 MB of small images would hold up the server."""
    monkeypatch.setattr(kept_images_module, "_KEYS_PER_CALL", 3)
    for number in range(8):
        wait(backlog, client, f"k{number}", 2_000_000)
    assert backlog.is_full
    client.config_resetstat()
    assert backlog.give_up() == 8
    assert client.info("commandstats")["cmdstat_unlink"]["calls"] == 3
    assert client.keys() == []
    assert backlog.count == 0 and not backlog.is_full
    assert backlog.give_up() == 0
    assert read_sizes(backlog, thread) == []


def test_the_server_is_asked_now_and_then_while_images_wait(
    backlog: Backlog, server: Server, client: redis.Redis, clock: ManualClock, thread: StageThread
) -> None:
    backlog.check_server(thread)
    assert server.asked == 0, "no image waits"
    wait(backlog, client, "k0", 1)
    for passed_s, asked in [(0.0, 1), (SERVER_CHECK_S * 0.9, 1), (SERVER_CHECK_S * 0.2, 2), (0.0, 2)]:
        clock.now += passed_s
        backlog.check_server(thread)
        assert server.asked == asked


def test_it_notices_that_the_server_is_full_and_that_it_no_longer_is(
    backlog: Backlog, server: Server, client: redis.Redis, clock: ManualClock, thread: StageThread
) -> None:
    wait(backlog, client, "k0", 1)
    for share, is_full in [(MAX_SERVER_SHARE, False), (0.91, True), (0.95, True), (0.5, False)]:
        server.share = share
        clock.now += SERVER_CHECK_S
        backlog.check_server(thread)
        assert backlog.is_server_full is is_full
        if is_full:
            backlog.give_up()  # it is asked on, although no image waits


def test_a_server_that_can_not_be_asked_is_asked_again_later(
    backlog: Backlog, server: Server, client: redis.Redis, clock: ManualClock, thread: StageThread
) -> None:
    """Until then the archive goes on: otherwise nobody would read the answers of its writer."""
    wait(backlog, client, "k0", 1)
    server.is_away = True
    with pytest.raises(redis.exceptions.ConnectionError):
        backlog.check_server(thread)
    backlog.check_server(thread)
    server.is_away, server.share = False, 1.0
    clock.now += SERVER_CHECK_S
    backlog.check_server(thread)
    assert backlog.is_server_full
