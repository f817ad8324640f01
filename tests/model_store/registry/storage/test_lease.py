"""The writer's lease: never two writers at once, without a file lock, and a dead writer doesn't block for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from model_store.registry.storage.lease import CLAIM_PREFIX, LEASE_TTL_S, Lease
from model_store.registry.storage.object_client import ObjectClient
from shared.errors import StoreUnavailable
from tests.kit import wait_until
from tests.model_store.registry.stores import FakeClock, objects

DEAD = f"tiny/{CLAIM_PREFIX}dead"


@pytest.fixture(params=["memory", "fsspec files"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectClient:
    remote = objects(request.param, tmp_path)
    remote.put("tiny/current", b"1\n")
    return remote


def claims(remote: ObjectClient) -> list[str]:
    return [entry for entry in remote.entries("tiny") if entry.startswith(CLAIM_PREFIX)]


def test_only_one_writer_at_a_time_holds_the_lease(remote: ObjectClient) -> None:
    inside = threading.Semaphore(1)
    collisions: list[str] = []
    turns: list[int] = []

    def change(number: int) -> None:
        with Lease(remote, "tiny").held():
            if not inside.acquire(blocking=False):
                collisions.append(f"{number} came in while another was there")
                return
            turns.append(number)
            time.sleep(0.01)
            inside.release()

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collisions == []
    assert sorted(turns) == list(range(8))
    assert claims(remote) == []


def test_a_dead_writers_claim_is_cleared_away(remote: ObjectClient, caplog: pytest.LogCaptureFixture) -> None:
    remote.put(DEAD, b'{"owner": "host:1"}')
    clock = FakeClock()
    with Lease(remote, "tiny", clock=clock, sleep=clock.pass_by).held():
        assert LEASE_TTL_S < clock.now_s < 2 * LEASE_TTL_S
        assert remote.read(DEAD) is None
        assert len(claims(remote)) == 1
    assert "waiting for another writer" in caplog.text
    assert "host:1" in caplog.text
    assert claims(remote) == []


def test_a_writer_waits_as_long_as_another_claim_is_renewed(remote: ObjectClient) -> None:
    """The clocks of the two writers don't matter, only whether the claim changes."""
    clock = FakeClock()

    def pause(wanted_s: float) -> None:
        clock.pass_by(wanted_s)
        if clock.now_s < 100 * LEASE_TTL_S:
            remote.put(DEAD, str(clock.now_s).encode())

    remote.put(DEAD, b"0")
    with Lease(remote, "tiny", clock=clock, sleep=pause).held():
        assert clock.now_s > 100 * LEASE_TTL_S


def test_a_writer_steps_aside_if_another_claims_at_the_same_time(remote: ObjectClient) -> None:
    """The other claim appears after this writer has looked and before it claims. It withdraws and tries again."""
    clock = FakeClock()
    steps: list[str] = []
    lease = Lease(remote, "tiny", clock=clock, sleep=lambda _: (steps.append("aside"), remote.delete(DEAD)))

    class Racing(ObjectClient):
        def put(self, file: str, data: bytes) -> None:
            if not steps:
                super().put(DEAD, b"other")
            super().put(file, data)

    lease._objects = Racing(remote._fs, remote._root, location=remote.location)
    with lease.held():
        assert steps == ["aside"]
        assert len(claims(remote)) == 1


def test_a_held_lease_is_renewed(remote: ObjectClient) -> None:
    # The clock stands still: by a real one, a thread without CPU time for half of `ttl_s` would stop renewing.
    with Lease(remote, "tiny", ttl_s=6.0, clock=FakeClock()).held():
        (claim,) = claims(remote)
        first = remote.read(f"tiny/{claim}")
        wait_until(lambda: remote.read(f"tiny/{claim}") != first, "the lease is renewed")


class Turns(threading.Event):
    """The event that the renewing thread waits for; its waits end when the test says so, whatever the time."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = threading.Semaphore(0)
        self._waiting = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self._waiting.release()
        self._turn.acquire()
        return self.is_set()

    def set(self) -> None:
        super().set()
        self._turn.release()

    def next(self) -> None:
        """Let the renewing thread go on once, as soon as it waits."""
        assert self._waiting.acquire(timeout=60)
        self._turn.release()

    def until_waited_for(self) -> None:
        """Wait until the renewing thread waits again."""
        assert self._waiting.acquire(timeout=60)
        self._waiting.release()


def test_a_writer_that_was_suspended_stops_writing_before_others_take_over(remote: ObjectClient) -> None:
    clock, turns = FakeClock(step_s=0.7), Turns()
    lease = Lease(remote, "tiny", ttl_s=1.2, clock=clock, sleep=clock.pass_by)
    lease._released = turns
    with lease.held():
        lease.check()
        (claim,) = claims(remote)
        first = remote.read(f"tiny/{claim}")
        turns.next()
        turns.until_waited_for()
        silent = remote.read(f"tiny/{claim}")
        assert silent != first
        clock.pass_by(0)  # as if it had been suspended for more than half of `ttl_s`, but less than all of it
        with pytest.raises(StoreUnavailable, match="lost the lease"):
            lease.check()
        (renewer,) = (thread for thread in threading.enumerate() if thread.name == "store-lease")
        turns.next()
        renewer.join(timeout=60)
        assert not renewer.is_alive()
        assert remote.read(f"tiny/{claim}") == silent  # the claim is not renewed any more
        with pytest.raises(StoreUnavailable):
            lease.check()
