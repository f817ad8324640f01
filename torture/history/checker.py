"""The checker: takes the whole history of a run and gives the promises that were broken. Pure: it asks no server.

The promise: every image whose submission was acknowledged ends in exactly one visible result, and nothing of it is left
behind. A result is visible while it stands in its line's stream.

If the server itself loses its data (`Loss`), an image that was acknowledged before may have no result. An image that
was sorted before may be sorted again, so that a reader sees two results, one from before the loss and one from after
it. The stream never holds both at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from shared.schemas import Outcome
from torture.history.follower import Entry, Observations
from torture.history.ledger import Ledger, Submission

# How many cases a breach quotes.
EXAMPLES = 5
# RQ's own counter of a worker. It does not count failures.
RQ_SUCCESSES = "successful_job_count"


class Loss(NamedTuple):
    """The server lost its data between `since` and `until` (UTC epoch seconds). It held `job_ids` at `since`."""

    job_ids: frozenset[str]
    since: float
    until: float

    def overlaps(self, began_at: float, ended_at: float) -> bool:
        """Whether the data may have been lost between these two times."""
        return self.since <= ended_at and began_at <= self.until


class WorkerCount(NamedTuple):
    """How many jobs a worker has counted. If not `is_final`, it was killed and may not have counted its last ones."""

    worker: str
    counter: str
    jobs: int
    is_final: bool


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that is known of one run."""

    ledger: Ledger
    observed: Observations
    visible: Mapping[str, Sequence[Entry]]  # for each job with several results: those that the server still holds
    losses: Sequence[Loss] = ()
    leftovers: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by kind
    counts: Sequence[WorkerCount] = ()
    # For each kind of image that is not plain: the outcomes that it may have.
    allowed_outcomes: Mapping[str, Collection[str]] = field(default_factory=dict)
    planted: Collection[str] = ()  # stream and id of each entry that the campaign itself has written


class Breach(NamedTuple):
    """A promise that was broken: in how many cases, and the first few of them."""

    promise: str
    cases: int
    examples: tuple[str, ...]


def check(history: History) -> list[Breach]:
    """Every promise that was broken. An empty list is the proof that none was."""
    found = {promise: list(broken(history)) for promise, broken in PROMISES.items()}
    return [breach_of(promise, cases) for promise, cases in found.items() if cases]


def breach_of(promise: str, cases: Sequence[str]) -> Breach:
    """The breach of a promise in these cases."""
    printable = (case.encode(errors="backslashreplace").decode() for case in cases[:EXAMPLES])  # ids may be any bytes
    return Breach(promise, len(cases), tuple(printable))


def lost_by_server(history: History) -> int:
    """How many acknowledged images have no result because the server lost its data."""
    return sum(is_explained for _, is_explained in _without_result(history))


def _lost(history: History) -> Iterator[str]:
    return (job_id for job_id, is_explained in _without_result(history) if not is_explained)


def _without_result(history: History) -> Iterator[tuple[str, bool]]:
    """Acknowledged images without a result, and whether the server lost the job, or its data during the call."""
    for job_id, call in history.ledger.accepted.items():
        if job_id not in history.observed.entries:
            was_held = any(job_id in loss.job_ids for loss in history.losses)
            yield job_id, was_held or _was_lost_between(history, call.sent_at, call.answered_at)


def _doubled(history: History) -> Iterator[str]:
    for job_id, entries in history.observed.entries.items():
        if len(entries) > 1 and len(history.visible[job_id]) > 1:
            yield f"{job_id}: {', '.join(f'{entry.outcome} by {entry.worker}' for entry in entries)}"


def _replaced(history: History) -> Iterator[str]:
    """Jobs that got a second result while the server still held the first one, which has been removed since."""
    for job_id, entries in history.observed.entries.items():
        written_at = sorted(entry.written_at for entry in entries)
        is_explained = all(_was_lost_between(history, *times) for times in pairwise(written_at))
        if len(entries) > len(history.visible.get(job_id, entries)) and not is_explained:
            yield f"{job_id}: {', '.join(f'{entry.outcome} by {entry.worker}' for entry in entries)}"


def _was_lost_between(history: History, began_at: float, ended_at: float) -> bool:
    return any(loss.overlaps(began_at, ended_at) for loss in history.losses)


def _without_submission(history: History) -> Iterator[str]:
    return (job_id for job_id in history.observed.entries if job_id not in history.ledger.submissions)


def _refused_but_sorted(history: History) -> Iterator[str]:
    return (job_id for job_id in history.ledger.refused if job_id in history.observed.entries)


def _wrongly_failed(history: History) -> Iterator[str]:
    for job_id, submission, entry in _results(history):
        if entry.outcome == Outcome.FAILED and not _may(history, submission, Outcome.FAILED):
            yield f"{job_id}, attempt {entry.attempt}: {entry.error}"


def _wrongly_rejected(history: History) -> Iterator[str]:
    for job_id, submission, entry in _results(history):
        if entry.outcome == Outcome.REJECTED and submission.kind == "plain":
            yield f"{job_id}: {entry.error}"


def _wrongly_ended(history: History) -> Iterator[str]:
    for job_id, submission, entry in _results(history):
        # `_wrongly_failed` checks the failed ones.
        is_known = submission.kind in history.allowed_outcomes and entry.outcome != Outcome.FAILED
        if is_known and not _may(history, submission, entry.outcome):
            yield f"{job_id}, {submission.kind}: {entry.outcome} {entry.error or ''}"


def _may(history: History, submission: Submission, outcome: str) -> bool:
    return outcome in history.allowed_outcomes.get(submission.kind, ())


def _changed(history: History) -> Iterator[str]:
    for job_id, submission, entry in _results(history):
        sent = (
            submission.line,
            submission.camera,
            submission.frame_id,
            submission.encoder_count,
            submission.captured_at,
        )
        if entry.order != sent:
            yield f"{job_id}: sent {sent}, got {entry.order}"


def _mistimed(history: History) -> Iterator[str]:
    for job_id, submission, entry in _results(history):
        # Not `finished_at`: it is by the server's clock, and the deadline by that of the producer.
        has_deadline, margin_ms = submission.deadline_at is not None, entry.margin_ms
        is_right: dict[str, bool] = {
            Outcome.SORTED: not has_deadline if margin_ms is None else margin_ms >= 0,
            Outcome.LATE: margin_ms is not None and margin_ms <= 0,  # 0 if it is late by less than it is rounded by
            Outcome.EXPIRED: has_deadline,  # a worker gives up an image before a deadline that it can't meet
        }
        if not is_right.get(entry.outcome, True):
            yield f"{job_id}: {entry.outcome} with {margin_ms} ms left to its deadline, {submission.deadline_at}"


def _disagreeing(history: History) -> Iterator[str]:
    """Jobs about which RQ disagrees with the result, except those that the server lost before RQ was asked."""
    for job_id, disagreement in history.observed.disagreements.items():
        if not _was_lost_between(history, disagreement.entry.written_at, disagreement.asked_at):
            yield f"{job_id}: {disagreement.text}"


def _unreadable(history: History) -> Iterator[str]:
    return (entry for entry in history.observed.unreadable if entry not in history.planted)


def _left_over(history: History) -> Iterator[str]:
    return (f"{kind}: {each}" for kind, found in history.leftovers.items() for each in found)


def _miscounted(history: History) -> Iterator[str]:
    """A worker that ended in good order has counted exactly its results. A killed one may have counted fewer."""
    entries = [entry for entries in history.observed.entries.values() for entry in entries]
    written = Counter(entry.worker for entry in entries)
    failed = Counter(entry.worker for entry in entries if entry.outcome == Outcome.FAILED)
    for count in history.counts:
        results = written[count.worker] - (failed[count.worker] if count.counter == RQ_SUCCESSES else 0)
        if count.jobs > results or (count.is_final and count.jobs < results):
            yield f"{count.worker} counted {count.jobs} ({count.counter}), wrote {results}"


def _not_followed(history: History) -> Iterator[str]:
    if history.observed.missed:
        missed = history.observed.missed
        yield f"{missed} results were trimmed before the checker could read them: the run proves nothing"


def _results(history: History) -> Iterator[tuple[str, Submission, Entry]]:
    for job_id, entries in history.observed.entries.items():
        if job_id in history.ledger.submissions:
            for entry in entries:
                yield job_id, history.ledger.submissions[job_id], entry


PROMISES: Mapping[str, Callable[[History], Iterable[str]]] = {
    "every acknowledged image has a result": _lost,
    "no image has two results": _doubled,
    "no result is followed by another one": _replaced,
    "every result has a submission": _without_submission,
    "no refused image has a result": _refused_but_sorted,
    "no image fails that could be sorted or rejected": _wrongly_failed,
    "no image is rejected that could be sorted": _wrongly_rejected,
    "unusable images end with the outcome that is right for them": _wrongly_ended,
    "sorted means in time; late and expired mean that a deadline was missed": _mistimed,
    "line, camera, frame_id, encoder_count and captured_at come back as they were sent": _changed,
    "RQ's status and registries agree with the result": _disagreeing,
    "every entry of a result stream is a result": _unreadable,
    "nothing is left behind": _left_over,
    "workers' counters agree with their results": _miscounted,
    "every result was seen by the checker": _not_followed,
}
