"""The proxy: what it does to the network, and where exactly its fault points lie."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import threading
import time
import warnings
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.ports import free_port
from shared.server.embedded import embedded_server
from tests.kit import PATIENCE_S, wait_until
from torture.server.proxy import Moment, Proxy, proxy_to

DELAY_S = 0.05
LARGE = b"x" * 3_000_000  # many TCP segments
ENDED = redis.exceptions.ConnectionError
MOMENTS: tuple[Moment, ...] = ("before", "after")


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with proxy_to(redis_url) as proxy:
        yield proxy


def through(proxy: Proxy, *, protocol: int = 2) -> redis.Redis:
    """A client that tries everything once."""
    return redis.Redis.from_url(
        proxy.url,
        protocol=protocol,
        socket_timeout=PATIENCE_S,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=True,
    )


@pytest.fixture
def ours(proxy: Proxy) -> Iterator[redis.Redis]:
    """A client of the proxy, connected."""
    with through(proxy) as ours:
        ours.ping()
        yield ours


def request(*arguments: bytes) -> bytes:
    """A request as a client sends it."""
    lengths = (b"$%d\r\n%s\r\n" % (len(each), each) for each in arguments)
    return b"*%d\r\n" % len(arguments) + b"".join(lengths)


@contextlib.contextmanager
def connected(proxy: Proxy) -> Iterator[socket.socket]:
    """A bare connection to the proxy."""
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2].split("/")[0])), PATIENCE_S) as bare:
        yield bare


def received(bare: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := bare.recv(65536):
            parts.append(part)
    return b"".join(parts)


# the network ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("protocol", [2, 3])
def test_requests_and_answers_pass(proxy: Proxy, client: redis.Redis, protocol: int) -> None:
    with through(proxy, protocol=protocol) as ours:
        ours.set("large", LARGE)
        ours.sadd("set", "member")
        assert ours.get("large") == LARGE
        assert ours.smembers("set") == {b"member"}
        assert ours.get("none") is None
        with pytest.raises(redis.exceptions.ResponseError):
            ours.incr("large")
    assert client.get("large") == LARGE


def test_each_direction_has_its_delay(proxy: Proxy, ours: redis.Redis) -> None:
    for link in (proxy.to_server, proxy.to_client):
        link.delay_s = DELAY_S
        started = time.monotonic()
        ours.ping()
        assert time.monotonic() - started >= DELAY_S
        link.delay_s = 0.0


def test_what_is_sent_later_does_not_wait_for_the_delay_again(proxy: Proxy, client: redis.Redis) -> None:
    """With one request at a time on the way, these would take an hour."""
    with connected(proxy) as bare:
        proxy.to_server.delay_s = 1.0
        for _ in range(3600):
            bare.sendall(request(b"INCR", b"count"))
        wait_until(lambda: client.get("count") == b"3600", "all arrived")


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_all_connections_share_the_bandwidth(proxy: Proxy, client: redis.Redis, direction: str) -> None:
    client.set("k", b"x" * 50_000)
    asked = request(b"SET", b"other", b"x" * 50_000) if direction == "to_server" else request(b"GET", b"k")
    with connected(proxy) as one, connected(proxy) as two:
        getattr(proxy, direction).bytes_per_s = 1_000_000
        started = time.monotonic()
        for bare in (one, two):
            bare.sendall(asked)
        for bare in (one, two):
            assert bare.recv(1)
        assert time.monotonic() - started >= 2 * 50_000 / 1_000_000


def test_all_connections_are_cut(proxy: Proxy, ours: redis.Redis) -> None:
    """A client that waits for its answer notices. New connections are accepted."""
    ended = threading.Event()

    def wait_for_an_answer() -> None:
        with through(proxy) as waiting, pytest.raises(ENDED):
            waiting.blpop("nothing")
        ended.set()

    thread = threading.Thread(target=wait_for_an_answer)
    thread.start()
    wait_until(lambda: ours.info("clients")["blocked_clients"] == 1, "one waits")
    assert proxy.cut_all() == 2
    assert ended.wait(PATIENCE_S)
    thread.join()
    with pytest.raises(ENDED):
        ours.ping()
    assert ours.ping()


def test_a_share_of_the_connections_is_cut_as_the_seed_says(proxy: Proxy) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(through(proxy)) for _ in range(10)]
        for each in clients:
            each.ping()
        expected = random.Random(7)
        is_cut = [expected.random() < 0.5 for _ in clients]
        assert proxy.cut_share(0.5, random.Random(7)) == sum(is_cut)
        for each, cut in zip(clients, is_cut, strict=True):
            with pytest.raises(ENDED) if cut else contextlib.nullcontext():
                each.ping()


def test_a_stalled_link_passes_nothing_on_until_it_resumes(
    proxy: Proxy, ours: redis.Redis, client: redis.Redis
) -> None:
    proxy.stall()
    with connected(proxy) as bare:
        bare.sendall(request(b"SET", b"k", b"v"))
        bare.settimeout(0.1)
        with pytest.raises(TimeoutError):
            bare.recv(1)
        assert not client.exists("k")
        proxy.resume()
        bare.settimeout(PATIENCE_S)
        assert bare.recv(100) == b"+OK\r\n"
    assert ours.get("k") == b"v"


def test_a_proxy_that_refuses_keeps_its_connections_and_its_port(proxy: Proxy, ours: redis.Redis) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError), connected(proxy):
        pass
    assert ours.ping()
    proxy.accept()
    with through(proxy) as new:
        assert new.ping()


def test_new_connections_lead_to_the_new_target(proxy: Proxy, ours: redis.Redis, client: redis.Redis) -> None:
    with embedded_server() as url, redis.Redis.from_url(url) as elsewhere:
        proxy.target = url
        ours.set("k", "old")
        with through(proxy) as new:
            new.set("k", "new")
        assert (client.get("k"), elsewhere.get("k")) == (b"old", b"new")


def test_without_a_server_connections_end(proxy: Proxy, ours: redis.Redis) -> None:
    proxy.target = f"redis://127.0.0.1:{free_port()}/0"
    with connected(proxy) as bare:
        assert received(bare) == b""
    assert ours.ping()


def test_what_the_server_says_before_it_hangs_up_arrives(proxy: Proxy) -> None:
    with connected(proxy) as bare:
        bare.sendall(request(b"QUIT"))
        assert received(bare) == b"+OK\r\n"


def test_a_client_that_hangs_up_is_gone_at_the_server(proxy: Proxy, client: redis.Redis) -> None:
    with through(proxy) as ours:
        ours.client_setname("ours")
    wait_until(lambda: all(each["name"] != "ours" for each in client.client_list()), "it is gone")


@pytest.mark.parametrize("state", ["idle", "waiting", "stalled", "slow", "refusing", "acted", "new"])
def test_a_closed_proxy_leaves_nothing(redis_url: str, state: str) -> None:
    before = set(threading.enumerate())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.ExitStack() as stack:
            proxy = stack.enter_context(proxy_to(redis_url))
            bare = [stack.enter_context(connected(proxy)) for _ in range(5)]
            if state == "stalled":
                proxy.stall()
            if state == "slow":
                proxy.to_server.delay_s = proxy.to_client.delay_s = 3600
            if state == "acted":
                acted = proxy.on(b"PING", "before", lambda: "ran", ends_connection=False)
            if state != "new":
                for each in bare:
                    each.sendall(request(b"BLPOP", b"nothing", b"0") if state == "waiting" else request(b"PING"))
            if state == "refusing":
                proxy.refuse()
            if state == "acted":
                assert acted.result(PATIENCE_S)
        del proxy, bare, stack
        gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []
    assert set(threading.enumerate()) <= before  # other tests' threads may end meanwhile


# fault points ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_action_runs_at_its_moment_and_the_request_goes_on(
    proxy: Proxy, ours: redis.Redis, client: redis.Redis, moment: Moment
) -> None:
    reached = proxy.on(b"marked", moment, lambda: client.get("marked"), ends_connection=False)
    ours.set("other", 1)
    assert not reached.done()
    assert ours.set("marked", 1)
    assert reached.result(PATIENCE_S) == (None if moment == "before" else b"1")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_fault_point_can_end_the_connection(
    proxy: Proxy, ours: redis.Redis, client: redis.Redis, moment: Moment
) -> None:
    """Before: the server never gets the request. After: the client never gets the answer."""
    reached = proxy.on(b"marked", moment, lambda: "ran", ends_connection=True)
    with pytest.raises(ENDED):
        ours.set("marked", 1)
    assert reached.result(PATIENCE_S) == "ran"
    assert client.exists("marked") == (moment == "after")
    assert ours.set("marked", 2)  # each fault point acts once
    assert client.get("marked") == b"2"


@pytest.mark.parametrize("moment", MOMENTS)
def test_other_connections_go_on_while_an_action_runs(proxy: Proxy, ours: redis.Redis, moment: Moment) -> None:
    with through(proxy) as other:
        reached = proxy.on(b"marked", moment, lambda: other.ping(), ends_connection=False)
        assert ours.set("marked", 1)
        assert reached.result(PATIENCE_S)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_marker_is_found_across_segments(proxy: Proxy, client: redis.Redis, moment: Moment) -> None:
    reached = proxy.on(b"marked", moment, lambda: client.get("k"), ends_connection=False)
    with connected(proxy) as bare:
        bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(b"SET", b"k", b"marked\r\n$3\r\n"):
            bare.sendall(bytes([byte]))
        assert bare.recv(100) == b"+OK\r\n"
    assert reached.result(PATIENCE_S) == (None if moment == "before" else b"marked\r\n$3\r\n")


def test_of_a_pipeline_the_requests_before_the_marked_one_were_passed_on(proxy: Proxy, client: redis.Redis) -> None:
    reached = proxy.on(
        b"marked", "before", lambda: wait_until(lambda: client.exists("first"), "it was"), ends_connection=True
    )
    with connected(proxy) as bare:
        bare.sendall(b"".join(request(b"SET", key, b"v") for key in (b"first", b"marked", b"last")))
        received(bare)
    reached.result(PATIENCE_S)
    assert client.keys() == [b"first"]


def test_the_answers_to_earlier_requests_of_a_pipeline_are_not_taken_for_that_to_the_marked_one(
    proxy: Proxy, client: redis.Redis
) -> None:
    reached = proxy.on(b"BLPOP", "after", lambda: client.llen("list"), ends_connection=False)
    with connected(proxy) as bare:
        bare.sendall(request(b"PING") * 3 + request(b"BLPOP", b"list", b"0"))
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the server has answered the others")
        with pytest.raises(TimeoutError):
            reached.result(0.1)
        client.rpush("list", "popped", "left")
        assert reached.result(PATIENCE_S) == 1
        assert _read_until(bare, b"popped\r\n").startswith(b"+PONG\r\n+PONG\r\n+PONG\r\n")


def test_no_byte_of_a_large_answer_is_passed_on(proxy: Proxy, client: redis.Redis) -> None:
    client.set("large", LARGE)
    reached = proxy.on(b"GET", "after", lambda: "ran", ends_connection=True)
    with connected(proxy) as bare:
        bare.sendall(request(b"GET", b"large"))
        assert received(bare) == b""
    assert reached.result(PATIENCE_S) == "ran"


def test_two_requests_of_a_pipeline_can_be_marked(proxy: Proxy) -> None:
    order: list[str] = []
    points = [
        proxy.on(name.encode(), "after", lambda name=name: order.append(name), ends_connection=False)  # type: ignore[misc]
        for name in ("two", "one")
    ]
    with connected(proxy) as bare:
        bare.sendall(request(b"ECHO", b"one") + request(b"ECHO", b"two") + request(b"QUIT"))
        assert received(bare) == b"$3\r\none\r\n$3\r\ntwo\r\n+OK\r\n"
    for point in points:
        point.result(PATIENCE_S)
    assert order == ["one", "two"]


def test_pushes_of_the_server_are_no_answers(proxy: Proxy, client: redis.Redis) -> None:
    """RESP3: the server tells of the changed key while the client waits for an answer."""
    reached = proxy.on(b"BLPOP", "after", lambda: client.llen("list"), ends_connection=False)
    with connected(proxy) as bare:
        bare.sendall(request(b"HELLO", b"3") + request(b"CLIENT", b"TRACKING", b"ON") + request(b"GET", b"k"))
        bare.sendall(request(b"BLPOP", b"list", b"0"))
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "it waits")
        client.set("k", "v")
        with pytest.raises(TimeoutError):
            reached.result(0.1)
        client.rpush("list", "popped", "left")
        assert reached.result(PATIENCE_S) == 1
        assert b"invalidate" in _read_until(bare, b"popped\r\n")


def test_an_action_that_fails_says_so(proxy: Proxy, ours: redis.Redis) -> None:
    reached = proxy.on(b"marked", "before", lambda: 1 // 0, ends_connection=False)
    assert ours.set("marked", 1)
    with pytest.raises(ZeroDivisionError):
        reached.result(PATIENCE_S)


def test_the_given_number_of_answers_is_dropped(proxy: Proxy, ours: redis.Redis, client: redis.Redis) -> None:
    proxy.drop_answers(2, to=b"INCR")
    for _ in range(2):
        with pytest.raises(ENDED):
            ours.incr("count")
    assert ours.incr("count") == 3


def _read_until(bare: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        data += bare.recv(65536)
    return data
