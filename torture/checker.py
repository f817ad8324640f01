"""The checker: the whole history in, breaches out. Pure: it asks no server.

What is promised: every image whose submission was acknowledged ends in exactly one visible result, and nothing of it is
left behind. A result is visible when a consumer that reads its line's stream can see it. Where the server itself loses
data (`Loss`), an image that was acknowledged before may have no result; one that was sorted before may be sorted again,
and a consumer may see both results. It never sees both in the stream that the server holds in the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.schemas import Outcome
from torture.follower import Entry, Seen
from torture.ledger import Ledger, Submission

EXAMPLES = 5
# RQ's own counter of a worker, which has no failures in it.
RQ_SUCCESSES = "successful_job_count"


class Loss(NamedTuple):
    """The server lost its data: these jobs, which had no end yet, and what was sent between the two times.

    Times are UTC epoch seconds. An image that was sent before them, and is not among the jobs, had its result by then.
    """

    what: str
    job_ids: frozenset[str]
    since: float
    until: float

    def explains(self, job_id: str, *, sent_at: float) -> bool:
        """Whether the image may be without a result."""
        return job_id in self.job_ids or self.since <= sent_at <= self.until


class WorkerCount(NamedTuple):
    """How many jobs a worker counted as ended. Unless `is_final`, it was killed, and its last may be uncounted."""

    worker: str
    counter: str
    jobs: int
    is_final: bool


@dataclass(frozen=True, kw_only=True)
class History:
    """All that is known of one run."""

    ledger: Ledger
    seen: Seen
    visible: Mapping[str, Sequence[Entry]]  # of jobs with several results: those that the server still holds
    losses: Sequence[Loss] = ()
    leftovers: Mapping[str, Sequence[str]] = field(default_factory=dict)  # what kind of thing, and which
    counts: Sequence[WorkerCount] = ()
    endings: Mapping[str, Collection[str]] = field(default_factory=dict)  # of what isn't plain: its right outcomes
    planted: Collection[str] = ()  # stream and id of entries that the campaign itself wrote into the streams


class Breach(NamedTuple):
    """One promise that was broken, in how many cases, and the first of them."""

    promise: str
    cases: int
    examples: tuple[str, ...]


def check(history: History) -> list[Breach]:
    """Every promise that was broken; an empty list is the proof."""
    found = {promise: list(broken(history)) for promise, broken in PROMISES.items()}
    return [breach_of(promise, cases) for promise, cases in found.items() if cases]


def breach_of(promise: str, cases: Sequence[str]) -> Breach:
    """The breach that these cases are."""
    printable = (case.encode(errors="backslashreplace").decode() for case in cases[:EXAMPLES])  # ids may be any bytes
    return Breach(promise, len(cases), tuple(printable))


def _lost(history: History) -> Iterator[str]:
    """Acknowledged images without a result, which no loss of the server's explains."""
    for job_id, sent_at in history.ledger.accepted.items():
        is_explained = any(loss.explains(job_id, sent_at=sent_at) for loss in history.losses)
        if job_id not in history.seen.entries and not is_explained:
            yield job_id


def _doubled(history: History) -> Iterator[str]:
    for job_id, entries in history.seen.entries.items():
        if len(entries) > 1 and len(history.visible[job_id]) > 1:
            yield f"{job_id}: {', '.join(f'{entry.outcome} by {entry.worker}' for entry in entries)}"


def _doubled_without_loss(history: History) -> Iterator[str]:
    if not history.losses:
        for job_id, entries in history.seen.entries.items():
            if len(entries) > len(history.visible.get(job_id, entries)):
                yield f"{job_id}: a result was taken back"


def _without_submission(history: History) -> Iterator[str]:
    return (job_id for job_id in history.seen.entries if job_id not in history.ledger.submissions)


def _refused_but_sorted(history: History) -> Iterator[str]:
    return (job_id for job_id in history.ledger.refused if job_id in history.seen.entries)


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
        is_known = submission.kind in history.endings and entry.outcome != Outcome.FAILED  # which is told above
        if is_known and not _may(history, submission, entry.outcome):
            yield f"{job_id}, {submission.kind}: {entry.outcome} {entry.error or ''}"


def _may(history: History, submission: Submission, outcome: str) -> bool:
    return outcome in history.endings.get(submission.kind, ())


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


def _wrong_status(history: History) -> Iterator[str]:
    return (f"{job_id}: {said}" for job_id, said in history.seen.wrong_status.items())


def _unreadable(history: History) -> Iterator[str]:
    return (entry for entry in history.seen.unreadable if entry not in history.planted)


def _left_over(history: History) -> Iterator[str]:
    return (f"{kind}: {each}" for kind, found in history.leftovers.items() for each in found)


def _miscounted(history: History) -> Iterator[str]:
    """A worker that lived to its end counted exactly its results; one that was killed may not have counted its last."""
    entries = [entry for entries in history.seen.entries.values() for entry in entries]
    written = Counter(entry.worker for entry in entries)
    failed = Counter(entry.worker for entry in entries if entry.outcome == Outcome.FAILED)
    for count in history.counts:
        results = written[count.worker] - (failed[count.worker] if count.counter == RQ_SUCCESSES else 0)
        # What the server lost before the follower saw it was counted all the same.
        is_right = count.jobs >= results if history.losses else count.jobs == results
        if not is_right and (count.is_final or count.jobs > results):
            yield f"{count.worker} counted {count.jobs} ({count.counter}), wrote {results}"


def _not_followed(history: History) -> Iterator[str]:
    if history.seen.missed:
        yield f"{history.seen.missed} results were trimmed before they were read: the run proves nothing"


def _results(history: History) -> Iterator[tuple[str, Submission, Entry]]:
    for job_id, entries in history.seen.entries.items():
        if job_id in history.ledger.submissions:
            for entry in entries:
                yield job_id, history.ledger.submissions[job_id], entry


PROMISES: Mapping[str, Callable[[History], Iterable[str]]] = {
    "every acknowledged image has a result": _lost,
    "no image has two results": _doubled,
    "no result is taken back": _doubled_without_loss,
    "no result without a submission": _without_submission,
    "no result of an image that was refused": _refused_but_sorted,
    "no image fails that could be sorted or rejected": _wrongly_failed,
    "no image is rejected that could be sorted": _wrongly_rejected,
    "what is no usable image ends as such": _wrongly_ended,
    "line, camera, frame_id, encoder_count and captured_at come back as they were sent": _changed,
    "RQ's status and registries agree with the result": _wrong_status,
    "every entry of a result stream is a result": _unreadable,
    "nothing is left behind": _left_over,
    "workers' counters agree with their results": _miscounted,
    "every result was seen by the checker": _not_followed,
}
