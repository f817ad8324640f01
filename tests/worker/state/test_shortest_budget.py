"""The shortest time from capture to deadline is remembered for some seconds, however many jobs come."""

from __future__ import annotations

from worker.state.shortest_budget import REMEMBER_S, ShortestBudget


def test_none_was_seen() -> None:
    assert ShortestBudget().seconds == 0.0


def test_many_longer_ones_do_not_hide_a_short_one() -> None:
    budget = ShortestBudget()
    budget.observe(0.1, now=100.0)
    for number in range(1000):
        budget.observe(2.0, now=100.0 + number * REMEMBER_S / 1000)
    assert budget.seconds == 0.1


def test_a_short_one_is_forgotten_in_time_but_not_while_nothing_comes() -> None:
    budget = ShortestBudget()
    budget.observe(0.1, now=0.0)
    for at in (0.5, 1.5):
        budget.observe(2.0, now=at * REMEMBER_S)
        assert budget.seconds == 0.1
    budget.observe(2.0, now=2.6 * REMEMBER_S)
    assert budget.seconds == 2.0
    budget.observe(3.0, now=100 * REMEMBER_S)
    assert budget.seconds == 3.0, "after a long pause, what came before it says nothing"


def test_an_impossible_budget_says_nothing() -> None:
    budget = ShortestBudget()
    budget.observe(-1.0, now=0.0)
    budget.observe(0.0, now=0.0)
    assert budget.seconds == 0.0
