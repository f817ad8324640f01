"""Which items a batch holds: by deadline, each batch for one model only. On a clock of the tests' own."""

from __future__ import annotations

import gc
import weakref

import pytest

from tests.worker import kit
from tests.worker.step_inputs import decoded
from tests.worker.steps.kit import WALL, Clock, batcher, names, through
from worker.steps.batch import NO_DEADLINE_S, Batcher
from worker.steps.work import Batch

# order ──────────────────────────────────────────────────────────────────────────────────────────────


def test_items_leave_by_earliest_deadline() -> None:
    clock = Clock()
    box = batcher(clock, max_batch=2)
    for name, deadline_s in (("third", 0.3), ("first", 0.1), ("fourth", 0.4), ("second", 0.2)):
        box.add(decoded(name, ready_at=clock.now, deadline_at=WALL + deadline_s))
    assert names(through(box)) == ["first", "second"]
    assert names(through(box)) == ["third", "fourth"]


def test_items_with_the_same_deadline_leave_in_the_order_they_came() -> None:
    clock = Clock()
    box = batcher(clock, max_batch=3)
    for name in ("a", "b", "c"):
        box.add(decoded(name, ready_at=clock.now, deadline_at=WALL + 1))
    assert names(box.take(0.0)) == ["a", "b", "c"]


def test_an_item_without_a_deadline_is_not_starved() -> None:
    """Urgent items fill every batch, but an item without a deadline leaves after a bounded time."""
    clock = Clock()
    start = clock.now
    box = Batcher(max_batch=2, linger_s=0.010, clock=clock, wall_clock=lambda: WALL + clock.now - start)
    box.add(decoded("patient", ready_at=start))
    for _ in range(100):
        for name in ("urgent-1", "urgent-2"):
            box.add(decoded(name, ready_at=clock.now, deadline_at=WALL + clock.now - start + 0.5))
        if "patient" in names(through(box)):
            break
        clock.now += 0.1
    assert clock.now - start == pytest.approx(NO_DEADLINE_S - 0.5, abs=0.2)


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_jump_of_the_wall_clock_holds_no_item_back(jump_s: float) -> None:
    clock, wall = Clock(), [WALL]
    box = Batcher(max_batch=4, linger_s=0.010, clock=clock, wall_clock=lambda: wall[0])
    box.add(decoded("a", ready_at=clock.now, deadline_at=WALL + 0.5))
    wall[0] += jump_s
    box.add(decoded("b", ready_at=clock.now, deadline_at=WALL + 0.5))
    clock.now += 0.011
    batch = box.take(0.0)
    assert batch is not None
    assert sorted(item.admitted.job.job_id for item in batch.items + batch.expired) == ["a", "b"]


# several models ─────────────────────────────────────────────────────────────────────────────────────


def versions(batch: Batch | None) -> set[int]:
    assert batch is not None, "no batch"
    return {item.model.version for item in batch.items}


def test_a_batch_holds_items_of_one_model_only() -> None:
    clock, old, new = Clock(), kit.model(version=1), kit.model(version=2)
    box = batcher(clock, max_batch=4)
    for number in range(8):
        box.add(decoded(f"j{number}", ready_at=clock.now - 1, deadline_at=WALL + 1 + number, by=(old, new)[number % 2]))
    first, second = through(box), through(box)
    assert (versions(first), names(first)) == ({1}, ["j0", "j2", "j4", "j6"])
    assert (versions(second), names(second)) == ({2}, ["j1", "j3", "j5", "j7"])
    assert len(box) == 0


def test_of_the_batches_that_may_start_the_most_urgent_goes_first() -> None:
    clock, old, new = Clock(), kit.model(version=1), kit.model(version=2)
    box = batcher(clock, max_batch=2)
    for name in ("a", "b"):
        box.add(decoded(name, ready_at=clock.now, deadline_at=WALL + 2, by=old))
    box.add(decoded("urgent", ready_at=clock.now - 1, deadline_at=WALL + 1, by=new))
    assert names(through(box)) == ["urgent"]
    assert names(through(box)) == ["a", "b"]


def test_a_full_batch_does_not_wait_for_another_models_lingering() -> None:
    clock, old, new = Clock(), kit.model(version=1), kit.model(version=2)
    box = batcher(clock, max_batch=2, linger_s=60.0)
    box.add(decoded("lingers", ready_at=clock.now, deadline_at=WALL + 1, by=new))
    for name in ("a", "b"):
        box.add(decoded(name, ready_at=clock.now, deadline_at=WALL + 2, by=old))
    batch = box.take(0.0)
    assert batch is not None and (batch.reason, names(batch)) == ("full", ["a", "b"])


def test_items_of_a_replaced_model_leave_after_their_linger_time() -> None:
    """No more items come for that model, so its batch never fills up."""
    clock, old, new = Clock(), kit.model(version=1), kit.model(version=2)
    box = batcher(clock, max_batch=4, linger_s=0.010)
    box.add(decoded("last-of-the-old", ready_at=clock.now, by=old))
    clock.now += 0.011
    box.add(decoded("first-of-the-new", ready_at=clock.now, by=new))
    batch = box.take(0.0)
    assert batch is not None and (batch.reason, names(batch)) == ("linger", ["last-of-the-old"])


def test_a_model_without_waiting_items_is_let_go() -> None:
    box, model = batcher(Clock()), kit.model()
    reference = weakref.ref(model.engine)
    box.add(decoded("a", by=model))
    assert names(box.take(0.0)) == ["a"]
    del model
    gc.collect()
    assert reference() is None
