"""When batches start, and how much time is spare until then; most tests need no threads and use their own clock."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from tests.worker import kit
from tests.worker.step_inputs import decoded
from tests.worker.steps.kit import WALL, Clock, batcher, names, through
from worker.models.model import Model
from worker.state.latency_estimator import FINISH_MARGIN_S
from worker.steps.batch import NO_DEADLINE_S, Batcher
from worker.steps.work import Batch, Decoded


def costing(seconds: dict[int, float]) -> Model:
    """A model with these costs of a batch, in seconds, by its size."""
    model = kit.model()
    for size, cost_s in seconds.items():
        model.cost.observe(size, cost_s)
    return model


# reasons ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_batch_starts_at_once() -> None:
    clock = Clock()
    box = batcher(clock)
    for number in range(5):
        box.add(decoded(f"j{number}", ready_at=clock.now))
    batch = box.take(0.0)
    assert batch is not None and batch.reason == "full"
    assert names(batch) == ["j0", "j1", "j2", "j3"]
    assert len(box) == 1


def bulk(name: str, clock: Clock, *, deadline_at: float | None = None, by: Model | None = None) -> Decoded:
    item = decoded(name, ready_at=clock.now, deadline_at=deadline_at, **({} if by is None else {"by": by}))
    claimed = replace(item.admitted.claimed, lease=replace(item.admitted.claimed.lease, queue="bulk"))
    return replace(item, admitted=replace(item.admitted, claimed=claimed))


def test_the_most_urgent_queue_goes_first_whatever_the_others_deadlines() -> None:
    clock = Clock()
    box = Batcher(max_batch=4, linger_s=0.0, urgent_queue="live", clock=clock, wall_clock=lambda: WALL)
    waiting = [bulk("b1", clock), decoded("l1", ready_at=clock.now), bulk("b2", clock, deadline_at=WALL + 1)]
    waiting.append(decoded("l2", ready_at=clock.now, deadline_at=WALL + 60))
    for item in waiting:
        box.add(item)
    assert [box.count_ahead_of(item.admitted) for item in waiting] == [4, 2, 3, 2]
    assert names(box.take(0.0)) == ["l1", "l2", "b2", "b1"]


def test_others_get_their_share_while_the_most_urgent_queue_never_runs_empty() -> None:
    clock, model = Clock(), costing({1: 0.010, 2: 0.020})
    box = Batcher(
        max_batch=2, linger_s=0.0, urgent_queue="live", others_share=0.25, clock=clock, wall_clock=lambda: WALL
    )
    for number in range(100):
        box.add(bulk(f"b{number:02}", clock, by=model))
    taken: list[str] = []
    for number in range(40):
        box.add(decoded(f"l{number}", ready_at=clock.now, by=model))
        box.add(decoded(f"m{number}", ready_at=clock.now, by=model))
        taken += names(through(box))
    others = sum(name.startswith("b") for name in taken)
    assert abs(others - 0.25 * len(taken)) <= 2, "a fourth of the engine's time, give or take a batch"


def test_a_batch_starts_after_its_linger_time() -> None:
    clock = Clock()
    box = batcher(clock, linger_s=0.010)
    box.add(decoded("old", ready_at=clock.now - 0.011))
    box.add(decoded("new", ready_at=clock.now))
    batch = box.take(0.0)
    assert batch is not None and batch.reason == "linger"
    assert names(batch) == ["old", "new"]


def test_nothing_starts_before_the_linger_time() -> None:
    """The clock advances by 1 ms with each call: the batch must come after the linger time, but soon after it."""
    clock = Clock(step_s=0.001)
    box = batcher(clock, linger_s=0.020)
    ready_at = clock.now
    box.add(decoded("a", ready_at=ready_at))
    batch = box.take(0.0)
    assert batch is not None and batch.reason == "linger"
    assert 0.020 <= clock.now - ready_at < 0.030


def test_a_deadline_starts_a_batch_before_the_linger_time() -> None:
    clock = Clock(step_s=0.0001)
    box = batcher(clock, linger_s=10.0)
    start = clock.now
    box.add(decoded("urgent", ready_at=start, deadline_at=WALL + 0.150, by=costing({1: 0.100, 4: 0.101})))
    batch = box.take(0.0)
    assert batch is not None and batch.reason == "deadline"
    assert names(batch) == ["urgent"]
    assert 0.150 - 0.100 - FINISH_MARGIN_S - 0.002 <= clock.now - start < 0.150 - 0.100


def test_a_larger_batch_must_start_earlier() -> None:
    """The cost of the whole batch counts, not that of the one urgent item."""
    model = costing({1: 0.070, 4: 0.100})
    clock = Clock()
    box = batcher(clock, linger_s=10.0)
    box.add(decoded("urgent", ready_at=clock.now, deadline_at=WALL + 0.104, by=model))
    box.add(decoded("mate", ready_at=clock.now, by=model))
    batch = box.take(0.0)
    assert batch is not None and batch.reason == "deadline"
    assert len(batch.items) == 1, "with its mate it would be late"


# while the model is busy ────────────────────────────────────────────────────────────────────────────


def test_no_second_batch_starts_until_the_engine_is_ready_for_it() -> None:
    """It would only wait inside the engine, where items that come meanwhile could not join it."""
    clock = Clock()
    box = batcher(clock, linger_s=0.0)
    box.add(decoded("a", ready_at=clock.now))
    first = box.take(0.0)
    assert first is not None and names(first) == ["a"]
    for number in range(4):
        box.add(decoded(f"b{number}", ready_at=clock.now))
    box.drain()
    assert box.take(0.0) is None
    box.add(decoded("urgent", ready_at=clock.now, deadline_at=WALL + 0.1))
    box.on_ready_for_next(first)
    assert names(box.take(0.0)) == ["urgent", "b0", "b1", "b2"]
    box.on_ready_for_next(first)  # a second call for the first batch says nothing about the next one
    assert box.take(0.0) is None


def test_a_ready_engine_gets_only_a_full_batch_and_an_idle_engine_any() -> None:
    """While the engine still works on the batch before, there is time for more items to come."""
    clock = Clock()
    box = batcher(clock, linger_s=0.0)
    box.add(decoded("a", ready_at=clock.now))
    first = box.take(0.0)
    assert first is not None
    box.add(decoded("b", ready_at=clock.now))
    box.on_ready_for_next(first)
    assert box.take(0.0) is None
    box.mark_done(first)
    second = box.take(0.0)
    assert names(second) == ["b"] and second is not None
    for number in range(4):
        box.add(decoded(f"c{number}", ready_at=clock.now))
    box.on_ready_for_next(second)
    assert names(box.take(0.0)) == ["c0", "c1", "c2", "c3"]


@pytest.mark.parametrize("max_batch", [1, 4])
def test_a_ready_engine_or_the_end_of_its_batch_wakes_a_waiting_taker(max_batch: int) -> None:
    box = Batcher(max_batch=max_batch, linger_s=0.0)
    box.add(decoded("a", ready_at=time.monotonic()))
    first = box.take(0.0)
    assert first is not None and names(first) == ["a"]
    box.add(decoded("b", ready_at=time.monotonic()))
    taken: list[Batch | None] = []
    taker = threading.Thread(target=lambda: taken.append(box.take(60.0)))
    taker.start()
    kit.wait_until(lambda: bool(box._wakes_at), "the taker waits")
    (box.on_ready_for_next if max_batch == 1 else box.mark_done)(first)
    taker.join(kit.PATIENCE_S)
    assert names(taken[0]) == ["b"]


def test_a_batcher_is_empty_when_no_item_is_there_or_on_its_way() -> None:
    box = batcher(Clock())
    assert box.is_empty
    box.reserve(2)
    assert not box.is_empty
    box.cancel()
    box.add(decoded("a"))
    assert not box.is_empty
    box.drain()
    box.take(0.0)
    assert box.is_empty


def test_draining_starts_batches_at_once() -> None:
    clock = Clock()
    box = batcher(clock, linger_s=10.0)
    box.add(decoded("a", ready_at=clock.now))
    box.drain()
    batch = box.take(0.0)
    assert batch is not None and batch.reason == "drain"


def test_draining_wakes_a_waiting_taker() -> None:
    box = Batcher(max_batch=4, linger_s=60.0)
    taken: list[Batch | None] = []
    taker = threading.Thread(target=lambda: taken.append(box.take(60.0)))
    taker.start()
    box.add(decoded("a", ready_at=1e12))
    box.drain()
    taker.join(kit.PATIENCE_S)
    assert not taker.is_alive(), "the taker slept on"
    assert names(taken[0]) == ["a"]


def test_taking_times_out() -> None:
    clock = Clock(step_s=0.001)
    box = batcher(clock)
    start = clock.now
    assert box.take(0.030) is None
    assert clock.now - start >= 0.030


def test_an_item_wakes_a_waiting_taker() -> None:
    box = Batcher(max_batch=1, linger_s=60.0)
    taken: list[Batch | None] = []
    taker = threading.Thread(target=lambda: taken.append(box.take(60.0)))
    taker.start()
    box.add(decoded("a"))
    taker.join(kit.PATIENCE_S)
    assert not taker.is_alive(), "the taker slept on"
    assert names(taken[0]) == ["a"]


def waiting_takers(box: Batcher, count: int) -> tuple[list[threading.Thread], list[Batch | None]]:
    taken: list[Batch | None] = []
    takers = [threading.Thread(target=lambda: taken.append(box.take(60.0)), daemon=True) for _ in range(count)]
    for taker in takers:
        taker.start()
    kit.wait_until(lambda: len(box._wakes_at) == count, "they wait")
    return takers, taken


def test_an_item_that_must_start_sooner_wakes_a_waiting_taker() -> None:
    """The taker sleeps until the lazy item's linger time is over, in an hour."""
    box = Batcher(max_batch=4, linger_s=3600.0)
    (taker,), taken = waiting_takers(box, 1)
    box.add(decoded("lazy", ready_at=time.monotonic(), deadline_at=time.time() + 3600))
    box.add(decoded("urgent", ready_at=time.monotonic(), deadline_at=time.time() + 0.05))
    taker.join(kit.PATIENCE_S)
    assert not taker.is_alive(), "the taker slept on"
    assert names(taken[0]) == ["urgent", "lazy"]


def test_each_of_two_waiting_takers_gets_a_batch() -> None:
    box = Batcher(max_batch=2, linger_s=60.0)
    takers, taken = waiting_takers(box, 2)
    for number in range(4):
        box.add(decoded(f"j{number}", ready_at=time.monotonic()))
    kit.wait_until(lambda: len(taken) == 1, "the first taker has a batch")
    assert taken[0] is not None
    box.on_ready_for_next(taken[0])
    for taker in takers:
        taker.join(kit.PATIENCE_S)
    assert sorted(name for batch in taken for name in names(batch)) == ["j0", "j1", "j2", "j3"]


# spare time ─────────────────────────────────────────────────────────────────────────────────────────


def test_all_time_is_spare_while_no_item_waits() -> None:
    assert batcher(Clock()).spare_s() == float("inf")


def test_the_time_until_the_next_batch_must_start_is_spare() -> None:
    clock = Clock()
    box = batcher(clock)
    box.add(decoded("a", ready_at=clock.now, deadline_at=WALL + 0.200, by=costing({1: 0.050})))
    assert box.spare_s() == pytest.approx(0.150 - FINISH_MARGIN_S, abs=1e-5)
    box.add(decoded("b", ready_at=clock.now, deadline_at=WALL + 0.300, by=costing({1: 0.100})))
    assert box.spare_s() == pytest.approx(0.050 - FINISH_MARGIN_S, abs=1e-5), (
        "both must be run before the first deadline"
    )


def test_a_full_batch_with_a_deadline_leaves_no_spare_time() -> None:
    clock = Clock()
    box = batcher(clock, max_batch=2)
    for _ in range(2):
        box.add(decoded(ready_at=clock.now, deadline_at=WALL + 60))
    assert box.spare_s() == 0.0


def test_a_batch_is_full_at_its_best_size_and_one_item_is_none() -> None:
    clock, model = Clock(), costing({1: 0.010, 2: 0.020})
    box = batcher(clock, max_batch=16)
    box.add(decoded("a", ready_at=clock.now, deadline_at=WALL + 1.0, by=model))
    assert box.spare_s() == pytest.approx(0.990 - FINISH_MARGIN_S, abs=1e-5)
    box.add(decoded("b", ready_at=clock.now, deadline_at=WALL + 1.0, by=model))
    assert box.spare_s() == 0.0


def test_items_of_several_batches_leave_the_time_of_all_of_them() -> None:
    clock, model = Clock(), costing({1: 0.100, 2: 0.200})
    box = batcher(clock, max_batch=2)
    for name in ("a", "b", "c"):
        box.add(decoded(name, ready_at=clock.now, by=model))
    assert box.spare_s() == pytest.approx(NO_DEADLINE_S - 0.300 - FINISH_MARGIN_S, abs=1e-5)


def test_a_full_batch_without_deadlines_leaves_spare_time() -> None:
    clock = Clock()
    box = batcher(clock, max_batch=2)
    for _ in range(2):
        box.add(decoded(ready_at=clock.now))
    assert box.spare_s() > 1.0


def test_a_batch_that_is_still_in_the_model_leaves_no_spare_time() -> None:
    clock = Clock()
    box = batcher(clock, max_batch=1)
    box.add(decoded(ready_at=clock.now))
    batch = box.take(0.0)
    assert batch is not None
    assert (box.is_busy, box.spare_s()) == (True, 0.0)
    box.on_ready_for_next(batch)
    assert (box.is_busy, box.spare_s()) == (True, 0.0)
    box.mark_done(batch)
    assert (box.is_busy, box.spare_s()) == (False, float("inf"))
