"""The leases that a worker holds."""

from __future__ import annotations

import threading

from tests.worker import kit
from worker.state.inflight import Inflight
from worker.state.jobs import Lease


def leases(count: int) -> list[Lease]:
    return [Lease("live", f"j{number}", f"e{number}", 0.0) for number in range(count)]


def test_added_leases_are_held_until_they_are_removed() -> None:
    inflight, (a, b, c) = Inflight(), leases(3)
    inflight.add([a, b])
    assert a in inflight and b in inflight and c not in inflight
    assert len(inflight) == 2
    inflight.remove([a, c])
    assert inflight.held() == [b]


def test_held_jobs_are_counted_by_queue() -> None:
    inflight, (a, b, c) = Inflight(), leases(3)
    bulk = Lease("bulk", "j", "e", 0.0)
    inflight.add([a, b, c, bulk])
    inflight.add([a])
    inflight.drop_lost([b])
    inflight.remove([c, c])
    assert (inflight.count_of("live"), inflight.count_of("bulk"), inflight.count_of("no such")) == (1, 1, 0)


def test_another_execution_of_the_same_job_is_another_lease() -> None:
    inflight, (a,) = Inflight(), leases(1)
    inflight.add([a])
    assert Lease("live", a.job_id, "another", 0.0) not in inflight


def test_waiting_for_capacity_of_one_queue_goes_on_if_another_has_some() -> None:
    """Otherwise a worker full of live jobs would ask in a busy loop, as long as the other queue has capacity."""
    inflight, held = Inflight(), leases(3)
    inflight.add([*held, Lease("bulk", "j", "e", 0.0)])
    counts: list[int] = []
    waiter = threading.Thread(
        target=lambda: counts.append(inflight.wait_below(9, kit.PATIENCE_S * 2, of_queue="live", of_queue_below=3))
    )
    waiter.start()
    inflight.remove([Lease("bulk", "j", "e", 0.0)])
    waiter.join(0.05)
    assert counts == []
    inflight.remove(held[:1])
    waiter.join(kit.PATIENCE_S)
    assert counts == [2]


def test_waiting_for_capacity_ends_when_there_is_some() -> None:
    inflight, held = Inflight(), leases(3)
    inflight.add(held)
    counts: list[int] = []
    waiter = threading.Thread(target=lambda: counts.append(inflight.wait_below(3, kit.PATIENCE_S * 2)))
    waiter.start()
    inflight.remove(held[:1])
    waiter.join(kit.PATIENCE_S)
    assert not waiter.is_alive(), "the waiter slept on"
    assert counts == [2]


def test_waiting_for_capacity_times_out() -> None:
    inflight = Inflight()
    inflight.add(leases(3))
    assert inflight.wait_below(3, 0.01) == 3


def test_a_lease_that_is_being_finished_is_not_lost() -> None:
    """The server deletes the lease before this worker has the answer. A renewal in between must not report a loss."""
    inflight, (finishing, lost, kept) = Inflight(), leases(3)
    inflight.add([finishing, lost, kept])
    inflight.finishing([finishing])
    assert inflight.drop_lost([finishing, lost]) == [lost]
    assert inflight.held() == [finishing, kept]
    inflight.remove([finishing])
    assert inflight.drop_lost([finishing]) == []


def test_an_answered_job_is_held_but_takes_no_place() -> None:
    inflight, held = Inflight(), leases(3)
    inflight.add(held)
    inflight.answer([*held[:2], held[0], Lease("live", "j", "not held", 0.0)])
    assert (len(inflight), inflight.count_of("live")) == (3, 1)
    assert inflight.held() == held, "their leases are renewed until their results are written"
    assert inflight.wait_below(2, 0.0) == 1
    assert not inflight.wait_empty(0.0) and not inflight.wait_answered_below(2, 0.0)
    inflight.remove(held[:2])
    assert inflight.wait_answered_below(1, 0.0)
    inflight.remove(held)
    assert (len(inflight), inflight.count_of("live")) == (0, 0)
    assert inflight.wait_empty(0.0)


def test_room_for_a_queue_is_there_whatever_the_others_have_taken() -> None:
    inflight = Inflight()
    inflight.add([Lease("bulk", str(number), f"b{number}", 0.0) for number in range(9)])
    (live,) = leases(1)
    inflight.add([live])

    def wait(room: int) -> threading.Thread:
        bounds = {"of_queue": "live", "of_queue_below": 6, "room": room}
        thread = threading.Thread(target=lambda: inflight.wait_below(6, 3600.0, **bounds), daemon=True)  # type: ignore[arg-type]
        thread.start()
        return thread

    has_room, has_none = wait(2), wait(1)
    has_room.join(kit.PATIENCE_S)
    assert not has_room.is_alive(), "it waits although a place of the room is free"
    assert has_none.is_alive()
    inflight.answer([live])
    has_none.join(kit.PATIENCE_S)
    assert not has_none.is_alive()
