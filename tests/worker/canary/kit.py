"""Comparisons of two versions, for the tests of canaries."""

from __future__ import annotations

from shared.schemas import ModelRef
from worker.canary.tally import Comparison, ModelAnswer


def comparison(number: int, *, agree: bool = True, line: str = "l1") -> Comparison:
    """One image that versions 3 and 4 answered."""
    acting = ModelAnswer(model=ModelRef(name="tone", version=3, engine="litert"), labels=(), lane="good")
    compared = ModelAnswer(
        model=ModelRef(name="tone", version=4, engine="litert"), labels=(), lane="good" if agree else "x"
    )
    return Comparison(job_id=f"j{number}", line=line, acting=acting, compared=compared, agree=agree)


def comparisons(count: int, disagreed: int = 0) -> list[Comparison]:
    """`count` images; the versions disagree on the first `disagreed` of them."""
    return [comparison(number, agree=number >= disagreed) for number in range(count)]
