"""Which model a job gets."""

from __future__ import annotations

import pytest

from model_store.registry.canary import Canary
from tests.worker import kit, step_inputs
from tests.worker.observe.test_metrics import samples
from worker.models.routing import ActiveCanary, ActiveModels, Serving, hash_fraction
from worker.observe.metrics import Metrics

JOBS = [step_inputs.image_job(f"job-{number}") for number in range(4000)]
OLD, NEW = kit.model(version=3), kit.model(version=4)


def active_canary(
    *, share: float = 0.25, shadow: bool = False, lines: tuple[str, ...] = (), started_at: float = 1.0
) -> ActiveCanary:
    return ActiveCanary(Canary(version=4, share=share, shadow=shadow, lines=lines, started_at=started_at), NEW)


# routes ─────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_canary_every_job_gets_the_model_in_service() -> None:
    route = Serving(OLD).route(JOBS[0])
    assert (route.model, route.other, route.canary) == (OLD, None, None)


@pytest.mark.parametrize("share", [0.05, 0.25, 1.0])
def test_a_canary_acts_on_its_share_and_the_other_sees_the_same_images(share: float) -> None:
    routes = [Serving(OLD, active_canary(share=share)).route(job) for job in JOBS]
    taken = [route for route in routes if route.model is NEW]
    assert len(taken) / len(JOBS) == pytest.approx(share, abs=0.03)
    assert all(route.other is OLD for route in taken)
    assert all(route.other is None and route.model is OLD for route in routes if route not in taken)


def test_a_shadow_never_acts() -> None:
    routes = [Serving(OLD, active_canary(shadow=True)).route(job) for job in JOBS]
    assert all(route.model is OLD for route in routes)
    watched = [route for route in routes if route.other is not None]
    assert all(route.other is NEW for route in watched)
    assert len(watched) / len(JOBS) == pytest.approx(0.25, abs=0.03)


def test_a_redelivered_job_gets_the_same_model_on_any_worker() -> None:
    here, there = Serving(OLD, active_canary()), Serving(kit.model(version=3), active_canary())
    assert [here.route(job).model is NEW for job in JOBS] == [there.route(job).model is NEW for job in JOBS]


def test_a_larger_share_keeps_the_images_of_the_smaller() -> None:
    small, large = active_canary(share=0.1), active_canary(share=0.3)
    assert all(large.takes(job) for job in JOBS if small.takes(job))


def test_only_the_named_lines_take_part() -> None:
    serving = Serving(OLD, active_canary(share=1.0, lines=("l2", "l3")))
    models = {line: serving.route(step_inputs.image_job("j", line=line)).model for line in ("l1", "l2", "l3")}
    assert models == {"l1": OLD, "l2": NEW, "l3": NEW}


def test_the_hash_of_a_job_is_the_same_in_every_release() -> None:
    """An upgrade must not change which images a running canary gets."""
    assert hash_fraction("job-1") == pytest.approx(0.007419, abs=1e-6)
    assert 0.0 <= min(map(hash_fraction, "abcdefghij")) <= max(map(hash_fraction, "abcdefghij")) < 1.0


# the slot ───────────────────────────────────────────────────────────────────────────────────────────


def shown(metrics: Metrics, name: str) -> list[dict[str, str]]:
    return [dict(labels) for sample, labels in samples(metrics.registry) if sample == name]


def test_the_metrics_show_the_active_models_and_nothing_else() -> None:
    metrics = Metrics()
    active_models = ActiveModels(Serving(OLD), metrics=metrics)
    active_models.activate(OLD, active_canary())
    assert [info["version"] for info in shown(metrics, "sortline_model_info")] == ["3"]
    canary = {"name": "tone", "version": "4", "share": "0.25", "mode": "canary"}
    assert shown(metrics, "sortline_canary_info") == [canary]
    active_models.activate(OLD, active_canary(share=0.5, shadow=True, started_at=2.0))
    assert shown(metrics, "sortline_canary_info") == [canary | {"share": "0.5", "mode": "shadow"}]
    active_models.activate(NEW, None)
    assert [info["version"] for info in shown(metrics, "sortline_model_info")] == ["4"]
    assert shown(metrics, "sortline_canary_info") == []


def test_a_versions_counts_disappear_with_its_canary() -> None:
    metrics = Metrics()
    active_models = ActiveModels(Serving(OLD, active_canary()), metrics=metrics)
    metrics.count_compared(4, compared=0, disagreed=0, ratio=0.5)
    names = ["sortline_canary_compared_total", "sortline_canary_disagreed_total", "sortline_canary_disagreement_ratio"]
    assert [shown(metrics, name) for name in names] == [[{"version": "4"}]] * 3
    assert active_models.end_canary(active_canary())
    metrics.count_compared(4, compared=0, disagreed=0, ratio=0.5)
    assert [shown(metrics, name) for name in names] == [[]] * 3


def test_a_canary_that_ended_does_not_come_back() -> None:
    """The follower may have read the store before the verdict, and activate that canary after it."""
    active_models = ActiveModels(Serving(OLD, active_canary()), metrics=Metrics())
    assert active_models.end_canary(active_canary())
    assert not active_models.end_canary(active_canary())
    active_models.activate(OLD, active_canary())
    assert active_models.current.canary is None
    active_models.activate(OLD, another := active_canary(started_at=2.0))
    assert active_models.current.canary is another
