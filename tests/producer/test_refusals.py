"""What a refusal means: the pause, and the words."""

from __future__ import annotations

import pytest

from producer.refusals import EXPLANATIONS, awaited, explain, pause_s
from shared.errors import Bound, QueueFull
from shared.settings import Settings


def full(bound: Bound = Bound.ITEMS, *, retry_s: float = 1.0, **refused: Bound) -> QueueFull:
    return QueueFull("as it says", bound=bound, retry_after_s=retry_s, refused=refused)


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
