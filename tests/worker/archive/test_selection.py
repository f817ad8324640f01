"""Which images are archived: a share by a hash of the job, and all with certain outcomes."""

from __future__ import annotations

import pytest

from shared.schemas import Outcome
from tests.worker.archive.kit import result
from worker.archive.selection import Selection
from worker.models.routing import hash_fraction

JOBS = [f"job-{number}" for number in range(4000)]


def chosen(share: float) -> set[str]:
    selection = Selection(share, frozenset())
    return {job_id for job_id in JOBS if selection.wants(result(job_id))}


def test_a_share_is_a_share_of_the_jobs_and_the_same_on_every_worker() -> None:
    assert chosen(0.0) == set()
    assert chosen(1.0) == set(JOBS)
    assert len(chosen(0.1)) == pytest.approx(400, abs=80)
    assert chosen(0.1) == chosen(0.1)
    assert chosen(0.1) < chosen(0.5)
    assert "job-10" in chosen(0.1), "the choice has changed, but workers of different releases must choose alike"


def test_a_share_is_independent_of_a_canarys_share() -> None:
    of_canary = {job_id for job_id in JOBS if hash_fraction(job_id) < 0.1}
    assert len(chosen(0.1) & of_canary) == pytest.approx(40, abs=30)


@pytest.mark.parametrize("outcome", Outcome)
def test_all_images_with_an_outcome(outcome: Outcome) -> None:
    selection = Selection(0.0, frozenset({outcome.value}))
    assert [other for other in Outcome if selection.wants(result(outcome=other))] == [outcome]


def test_all_uncertain_images_whatever_their_outcome() -> None:
    selection = Selection(0.0, frozenset({"uncertain"}))
    assert selection.wants(result(uncertain=True))
    assert selection.wants(result(uncertain=True, outcome=Outcome.LATE))
    assert not selection.wants(result())
    assert not Selection(0.0, frozenset({"rejected"})).wants(result(uncertain=True))


def test_a_share_includes_all_outcomes() -> None:
    selection = Selection(1.0, frozenset())
    assert all(selection.wants(result(outcome=outcome)) for outcome in Outcome)
