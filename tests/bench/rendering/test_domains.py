"""The judge frames of a pair show what its learn frames don't."""

from __future__ import annotations

import pytest

from bench.rendering.belts import BELTS
from bench.rendering.domains import PAIRS
from bench.rendering.families import FAMILIES
from bench.rendering.lights import RIGS


@pytest.mark.parametrize("pair", PAIRS)
def test_belts_lights_and_bottles_are_others(pair: str) -> None:
    learn, judge = PAIRS[pair]
    assert not set(learn.belts) & set(judge.belts)
    assert not set(learn.rigs) & set(judge.rigs)
    assert not set(learn.families) & set(judge.families)
    assert learn.camera != judge.camera


@pytest.mark.parametrize("pair", PAIRS)
def test_everything_that_is_named_exists(pair: str) -> None:
    for domain in PAIRS[pair]:
        assert set(domain.belts) <= set(BELTS)
        assert set(domain.rigs) <= set(RIGS)
        assert set(domain.families) <= set(FAMILIES)


def test_everything_that_exists_is_used() -> None:
    domains = [domain for pair in PAIRS.values() for domain in pair]
    assert {name for domain in domains for name in domain.belts} == set(BELTS)
    assert {name for domain in domains for name in domain.rigs} == set(RIGS)
    assert {name for domain in domains for name in domain.families} == set(FAMILIES)
