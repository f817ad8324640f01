"""The checker finds each kind of breach, and only that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from torture.history.checker import (
    PROMISES,
    RQ_SUCCESSES,
    Breach,
    History,
    Loss,
    WorkerCount,
    breach_of,
    check,
    lost_by_server,
)
from torture.history.follower import Disagreement, Entry, Observations
from torture.history.ledger import Acknowledgement, Ledger, Submission

ORDER = ("line-1", "camera-1", 7, 7000, 100.0)
CALL = Acknowledgement(sent_at=100.0, answered_at=100.2)


def submission(job_id: str, kind: str = "plain") -> Submission:
    line, camera, frame_id, encoder_count, captured_at = ORDER
    return Submission(job_id, line, camera, frame_id, encoder_count, captured_at, "live", kind)


def entry(
    outcome: str = "sorted", *, worker: str = "w1", entry_id: str = "101000-0", error: str | None = None
) -> Entry:
    return Entry(
        stream="sortline:results:line-1",
        entry_id=entry_id,
        outcome=outcome,
        attempt=1,
        worker=worker,
        finished_at=101.0,
        margin_ms=None,
        order=ORDER,
        error=error,
    )


# A second result, 2 s after the first.
AGAIN = entry(entry_id="103000-0", worker="w2")


def good() -> History:
    """One image was acknowledged and sorted, one was refused, and of one nobody knows: its producer was killed."""
    sent = {job_id: submission(job_id) for job_id in ("a", "refused", "unknown")}
    ledger = Ledger(submissions=sent, accepted={"a": CALL}, refused={"refused": "the queue is full"})
    observed = Observations(entries={"a": [entry()]})
    return History(
        ledger=ledger, observed=observed, visible={}, counts=[WorkerCount("w1", "counter", 1, is_final=True)]
    )


def broken_promises(history: History) -> list[str]:
    return [breach.promise for breach in check(history)]


# how each promise is broken, by a change to a good history ─────────────────────────────────────────


def lose_data(history: History) -> History:
    history.ledger.accepted["unknown"] = CALL
    return history


def double(history: History) -> History:
    both = [entry(), AGAIN]
    history.observed.entries["a"] = both
    return replace(history, visible={"a": both})


def replace_result(history: History) -> History:
    history.observed.entries["a"] = [entry(), AGAIN]
    return replace(history, visible={"a": [AGAIN]})


def invent(history: History) -> History:
    history.observed.entries["ghost"] = [entry(worker="w2")]
    return history


def sort_refused(history: History) -> History:
    history.observed.entries["refused"] = [entry(worker="w2")]
    return history


def fail(history: History) -> History:
    history.observed.entries["a"] = [entry("failed", error="out of order")]
    return history


def reject(history: History) -> History:
    history.observed.entries["a"] = [entry("rejected", error="truncated")]
    return history


def sort_bad(history: History) -> History:
    history.ledger.submissions["a"] = submission("a", kind="truncated")
    return replace(history, allowed_outcomes={"truncated": {"rejected"}})


def expire(history: History) -> History:
    history.observed.entries["a"] = [entry("expired")]
    return history


def change(history: History) -> History:
    history.observed.entries["a"] = [entry()._replace(order=("line-1", "camera-1", 8, 7000, 100.0))]
    return history


def misreport(history: History) -> History:
    history.observed.disagreements["a"] = Disagreement("outcome sorted, status started", entry(), asked_at=103.0)
    return history


def garble(history: History) -> History:
    history.observed.unreadable.append("sortline:results:line-1 1-2")
    return history


def leave(history: History) -> History:
    return replace(history, leftovers={"lease": ["a:execution"]})


def miscount(history: History) -> History:
    return replace(history, counts=[WorkerCount("w1", "counter", 2, is_final=True)])


def miss(history: History) -> History:
    history.observed.missed = 3
    return history


BREAKS: dict[str, Callable[[History], History]] = dict(
    zip(
        PROMISES,
        [
            lose_data,
            double,
            replace_result,
            invent,
            sort_refused,
            fail,
            reject,
            sort_bad,
            expire,
            change,
            misreport,
            garble,
            leave,
            miscount,
            miss,
        ],
        strict=True,
    )
)


def test_a_good_history_breaks_no_promise() -> None:
    assert check(good()) == []


@pytest.mark.parametrize("promise", PROMISES)
def test_each_breach_is_found_alone(promise: str) -> None:
    assert broken_promises(BREAKS[promise](good())) == [promise]


# what is allowed ───────────────────────────────────────────────────────────────────────────────────


def test_an_image_of_a_killed_producer_may_have_a_result() -> None:
    history = good()
    history.observed.entries["unknown"] = [entry(worker="w2")]
    assert check(history) == []


def loss(*job_ids: str, since: float = 0.0, until: float = 0.0) -> Loss:
    return Loss(frozenset(job_ids), since=since, until=until)


@pytest.mark.parametrize(
    "explains",
    [loss("unknown"), loss(since=99.0, until=100.1), loss(since=100.1, until=101.0)],
    ids=["held", "during the call", "before its answer"],
)
def test_what_the_server_lost_may_have_no_result(explains: Loss) -> None:
    history = replace(lose_data(good()), losses=[loss(), explains])
    assert check(history) == []
    assert lost_by_server(history) == 1


@pytest.mark.parametrize("elsewhere", [loss("a"), loss(until=99.9), loss(since=100.3, until=101.0)])
def test_what_no_loss_explains_is_lost(elsewhere: Loss) -> None:
    history = replace(lose_data(good()), losses=[elsewhere])
    assert broken_promises(history) == ["every acknowledged image has a result"]
    assert lost_by_server(history) == 0


def test_a_result_that_the_server_lost_may_come_again() -> None:
    between = loss("a", since=101.5, until=102.0)
    assert check(replace(replace_result(good()), losses=[between])) == []
    assert broken_promises(replace(double(good()), losses=[between])) == ["no image has two results"]


@pytest.mark.parametrize("elsewhere", [loss(since=99.0, until=100.9), loss(since=103.1, until=104.0)])
def test_a_loss_before_or_after_two_results_explains_neither_of_them(elsewhere: Loss) -> None:
    """It took both away, or came before both: the server held the first when it got the second."""
    history = replace(replace_result(good()), losses=[elsewhere])
    assert broken_promises(history) == ["no result is followed by another one"]


def test_rq_need_not_know_a_job_that_the_server_lost_before_it_was_asked() -> None:
    assert check(replace(misreport(good()), losses=[loss(since=102.0, until=102.5)])) == []
    after = replace(misreport(good()), losses=[loss(since=104.0, until=104.5)])
    assert broken_promises(after) == ["RQ's status and registries agree with the result"]


@pytest.mark.parametrize(
    ("outcome", "margin_ms", "is_right"),
    [
        ("sorted", None, True),
        ("sorted", 0.0, True),
        ("sorted", -0.1, False),
        ("late", None, False),
        ("late", 0.1, False),
        ("late", -0.0, True),
        ("late", -0.1, True),
        ("expired", None, False),
        ("expired", 500.0, True),
    ],
)
def test_outcomes_agree_with_deadlines(outcome: str, margin_ms: float | None, is_right: bool) -> None:
    """By the worker's margin: the producer's clock, which the deadline is by, may be far from the server's."""
    history = good()
    deadline_at = None if margin_ms is None else 60.0
    history.ledger.submissions["a"] = submission("a")._replace(deadline_at=deadline_at)
    history.observed.entries["a"] = [entry(outcome)._replace(margin_ms=margin_ms)]
    wrong = "sorted means in time; late and expired mean that a deadline was missed"
    assert broken_promises(history) == ([] if is_right else [wrong])


def test_sorted_without_a_margin_breaks_the_promise_if_there_was_a_deadline() -> None:
    history = good()
    history.ledger.submissions["a"] = submission("a")._replace(deadline_at=60.0)
    assert broken_promises(history) == ["sorted means in time; late and expired mean that a deadline was missed"]


def test_a_killed_worker_may_have_counted_less_than_it_wrote_but_not_more() -> None:
    def counted(jobs: int) -> History:
        return replace(good(), counts=[WorkerCount("w1", "counter", jobs, is_final=False)])

    assert check(counted(0)) == []
    assert broken_promises(counted(2)) == ["workers' counters agree with their results"]


@pytest.mark.parametrize("end", [fail, reject])
def test_an_image_that_can_not_be_sorted_may_end_as_it_should(end: Callable[[History], History]) -> None:
    history = end(good())
    history.ledger.submissions["a"] = submission("a", kind="abort")
    assert check(replace(history, allowed_outcomes={"abort": {"failed", "rejected"}})) == []


def test_an_entry_that_the_campaign_wrote_may_be_unreadable() -> None:
    assert check(replace(garble(good()), planted={"sortline:results:line-1 1-2"})) == []


def test_failures_are_not_in_rqs_count_of_successes() -> None:
    counts = [WorkerCount("w1", RQ_SUCCESSES, 0, is_final=True), WorkerCount("w1", "sortline_jobs_total", 1, True)]
    assert broken_promises(replace(fail(good()), counts=counts)) == ["no image fails that could be sorted or rejected"]


def test_a_breach_counts_all_and_quotes_the_first() -> None:
    assert breach_of("promise", [str(number) for number in range(9)]) == Breach("promise", 9, ("0", "1", "2", "3", "4"))
