"""What a batch takes of the other queues, what expires with it, and that a plan needs figures that don't change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.worker import kit
from tests.worker.step_inputs import decoded
from tests.worker.steps.kit import WALL, Clock, batcher, names, through
from worker.models.model import Model
from worker.steps.batch import Batcher
from worker.steps.batch_plan import Plan
from worker.steps.work import Decoded


def costing(seconds: dict[int, float]) -> Model:
    """A model with these costs of a batch, in seconds, by its size."""
    model = kit.model()
    for size, cost_s in seconds.items():
        model.cost.observe(size, cost_s)
    return model


def bulk(name: str, clock: Clock, *, by: Model) -> Decoded:
    item = decoded(name, ready_at=clock.now, by=by)
    claimed = replace(item.admitted.claimed, lease=replace(item.admitted.claimed.lease, queue="bulk"))
    return replace(item, admitted=replace(item.admitted, claimed=claimed))


@pytest.mark.parametrize("costs", [{1: 0.010, 2: 0.020}, {1: 0.010, 2: 0.011}], ids=["linear", "constant"])
def test_a_single_item_of_the_others_leaves_once_its_share_is_due(costs: dict[int, float]) -> None:
    clock, model = Clock(), costing(costs)
    box = Batcher(
        max_batch=2, linger_s=0.0, urgent_queue="live", others_share=0.25, clock=clock, wall_clock=lambda: WALL
    )
    box.add(bulk("single", clock, by=model))
    for number in range(50):
        while len(box) < 7:
            box.add(decoded(f"l{number}", ready_at=clock.now, deadline_at=WALL + 0.021, by=model))
        if "single" in names(through(box)):
            break
    assert number <= 9, "two images of it are due after eight"


@pytest.mark.parametrize(("costs", "most_s"), [({1: 0.010, 2: 0.020}, 0.030), ({1: 0.010, 2: 0.011}, 0.022)])
def test_no_more_is_due_to_the_others_than_they_could_use_at_once(costs: dict[int, float], most_s: float) -> None:
    """After a long wait, the urgent items would have to make way for all of it."""
    clock, model = Clock(), costing(costs)
    box = Batcher(max_batch=2, linger_s=0.0, urgent_queue="live", others_share=0.1, clock=clock)
    box._others_due_s = 60.0
    for number in range(9):
        box.add(bulk(f"b{number}", clock, by=model))
        box.add(decoded(f"l{number}", ready_at=clock.now, by=model))
    through(box)
    assert 0.0 < box._others_due_s <= most_s + 1e-9


def test_what_expired_would_have_taken_longer_than_was_left() -> None:
    """The figure is the plan's own: by a later one, an image might seem to have had enough time."""
    clock, model = Clock(), costing({1: 0.050, 2: 0.100})
    box = batcher(clock)
    box.add(decoded("late", ready_at=clock.now, deadline_at=WALL + 0.040, by=model))
    box.add(decoded("fine", ready_at=clock.now, deadline_at=WALL + 0.900, by=model))
    batch = through(box)
    assert names(batch) == ["fine"] and batch is not None
    assert [item.admitted.job.job_id for item in batch.expired] == ["late"]
    assert batch.needs_s == pytest.approx(0.055)


def test_an_empty_plan_is_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    box = batcher(clock, linger_s=0.0)
    monkeypatch.setattr("worker.steps.batch.plan_batch", lambda *_, **__: Plan(()))
    box.add(decoded("a", ready_at=clock.now, deadline_at=WALL + 0.001, by=costing({1: 0.050})))
    batch, ask_at = box.poll()
    assert batch is None and clock.now < ask_at < clock.now + 0.1
    assert not box.is_busy and len(box) == 1


def test_a_batch_is_planned_by_figures_that_do_not_change_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another inference thread measures its batch: by the new figure, nothing could be in time any more."""
    clock, model = Clock(), costing({1: 0.010, 2: 0.020, 4: 0.040})
    box = batcher(clock, linger_s=0.0)
    for number in range(4):
        box.add(decoded(f"j{number}", ready_at=clock.now, deadline_at=WALL + 0.018, by=model))
    plain = type(model.cost.table).estimate

    def estimate(table: object, size: int) -> float:
        model.cost.observe(1, 0.500)
        return plain(table, size)  # type: ignore[arg-type]

    monkeypatch.setattr(type(model.cost.table), "estimate", estimate)
    batch, _ = box.poll()
    assert names(batch) == ["j0"] and batch is not None
    assert not batch.expired and len(box) == 3
