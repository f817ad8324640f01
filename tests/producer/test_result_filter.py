"""The filter of `sortline results`: which results it accepts, and how it describes itself."""

from __future__ import annotations

from typing import Any

import pytest

from producer.result_filter import ResultFilter
from shared.errors import BadSetting
from shared.schemas import Outcome
from tests.producer.kit import sort_result

LATE = sort_result("j1", Outcome.LATE)  # in lane `reject`


@pytest.mark.parametrize(
    ("names", "is_accepted"),
    [
        ({}, True),
        ({"jobs": ["j0", "j1"]}, True),
        ({"jobs": ["j"]}, False),
        ({"outcomes": ["late", "expired"]}, True),
        ({"outcomes": ["sorted"]}, False),
        ({"lanes": ["reject"]}, True),
        ({"lanes": ["Reject"]}, False),
        ({"jobs": ["j1"], "outcomes": ["late"], "lanes": ["reject"]}, True),
        ({"jobs": ["j1"], "outcomes": ["late"], "lanes": ["good"]}, False),
    ],
)
def test_a_result_must_have_one_of_the_names_of_each_kind(names: dict[str, Any], is_accepted: bool) -> None:
    wanted = ResultFilter(**names)
    assert wanted(LATE) is is_accepted
    assert wanted.is_set is bool(names)


def test_the_description_follows_the_words_no_results() -> None:
    assert ResultFilter().described == ""
    wanted = ResultFilter(outcomes=["late", "expired"], lanes=["reject"])
    assert wanted.described == " with outcome expired or late and lane reject"


@pytest.mark.parametrize(
    ("outcome", "hint"),
    [("lat", "did you mean late?"), ("", "the outcomes are sorted, late"), ("nothing-like-it", "the outcomes are")],
)
def test_an_outcome_that_does_not_exist_is_refused(outcome: str, hint: str) -> None:
    with pytest.raises(BadSetting) as refusal:
        ResultFilter(outcomes=["late", outcome])
    assert str(refusal.value).startswith(f"--outcome {outcome!r} is not an outcome: {hint}")
