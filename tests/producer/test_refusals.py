"""What a refusal means: the reason for each job, the pause, and the words."""

from __future__ import annotations

import pytest

from producer.refusals import EXPLANATIONS, awaited, explain, pause_s, reasons
from shared.errors import Bound, QueueFull
from shared.settings import Settings

JOBS = ("a", "b", "c", "d")


def full(
    bound: Bound = Bound.ITEMS, *, accepted: tuple[str, ...] = (), retry_s: float = 1.0, **refused: Bound
) -> QueueFull:
    return QueueFull("as it says", bound=bound, retry_after_s=retry_s, refused=refused, accepted=accepted)


def test_a_refusal_without_details_concerns_all_jobs_that_were_not_accepted() -> None:
    assert reasons(full(Bound.MEMORY, accepted=("a",)), JOBS) == dict.fromkeys("bcd", Bound.MEMORY)


def test_each_job_has_its_own_reason() -> None:
    error = full(Bound.LINE, accepted=("b",), a=Bound.LINE, c=Bound.DEADLINE, d=Bound.BYTES)
    assert reasons(error, JOBS) == {"a": Bound.LINE, "c": Bound.DEADLINE, "d": Bound.BYTES}


def test_jobs_that_were_not_tried_find_no_place_in_a_full_queue() -> None:
    error = full(Bound.DEADLINE, a=Bound.DEADLINE, b=Bound.WAIT)
    assert reasons(error, JOBS) == {"a": Bound.DEADLINE, "b": Bound.WAIT, "c": Bound.WAIT, "d": Bound.WAIT}


def test_jobs_that_were_not_tried_have_no_reason_if_only_deadlines_were_refused() -> None:
    assert reasons(full(Bound.DEADLINE, accepted=("a",), b=Bound.DEADLINE), JOBS) == {"b": Bound.DEADLINE}


@pytest.mark.parametrize(
    ("told_s", "pause"), [(-1.0, 0.05), (0.0, 0.05), (1.5, 1.5), (99.0, 5.0), (float("inf"), 5.0), (float("nan"), 0.05)]
)
def test_the_pause_has_limits(told_s: float, pause: float) -> None:
    assert pause_s(full(retry_s=told_s)) == pause


def test_only_the_first_reason_is_explained_by_the_error() -> None:
    error = full(Bound.LINE, a=Bound.LINE, b=Bound.BYTES)
    assert explain(error, Bound.LINE) == "as it says"
    assert explain(error, Bound.BYTES) == EXPLANATIONS[Bound.BYTES]


def test_each_bound_has_an_explanation_and_words_to_wait_by() -> None:
    assert EXPLANATIONS.keys() == set(Bound)
    assert [awaited(bound, Settings()) for bound in Bound] == [
        "queue holds 20,000 images",
        "queue holds 500 MB",
        "queue is 1,800 s long",
        "line holds 50% of the queue",
        "queue too slow for the deadline",
        "server memory full",
    ]
    assert awaited(Bound.LINE, Settings(line_share=1.0)) == "line holds the queue"
