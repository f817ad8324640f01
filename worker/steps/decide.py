"""Decide: from probabilities, or from what went wrong, to the SortResult. Pure.

Used by the pipeline for batches and by `tasks.sort_image` for one image: the same answers either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from model_store.bundle.manifest import Manifest
from model_store.bundle.policy import Decision, Policy, decide, policies_by_line
from shared.errors import BadInput, BadJob
from shared.policy_overrides import PolicyOverride
from shared.schemas import Label, ModelRef, Outcome, SortResult, Timings
from worker.state.jobs import Ticket

_NO_OVERRIDES: Mapping[str, PolicyOverride] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Spent:
    """Milliseconds that an image spent in the stages it reached."""

    decode_ms: float | None = None
    batch_ms: float | None = None
    infer_ms: float | None = None


class Decider:
    """Builds the results of one model on one worker, by the model's policy or the line's own."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        engine: str,
        worker: str,
        overrides: Mapping[str, PolicyOverride] = _NO_OVERRIDES,
    ) -> None:
        """`overrides` are the setting `policies`.

        Raises:
            BadSetting: an override does not fit the model's classes; names line, key and value.
        """
        self._manifest = manifest
        self._policies = policies_by_line(
            manifest.policy,
            overrides,
            classes=manifest.classes,
            mode=manifest.mode,
            model=f"{manifest.name}@{manifest.version}",
        )
        self._worker = worker
        self.model = ModelRef(name=manifest.name, version=manifest.version, engine=engine)

    def classified(
        self, ticket: Ticket, probabilities: Sequence[float], *, spent: Spent, finished_at: float
    ) -> SortResult:
        """The result of an image that went through the model: `sorted`, or `late` past its deadline.

        Args:
            probabilities: one per class of the manifest, in its order.
        """
        decision = self.decision(ticket, probabilities)
        deadline_at = ticket.job.deadline_at
        late = deadline_at is not None and finished_at > deadline_at
        return self._result(
            ticket,
            outcome=Outcome.LATE if late else Outcome.SORTED,
            lane=self._policy(ticket).unsorted_lane if late else decision.lane,
            uncertain=decision.uncertain,
            labels=tuple(
                Label.construct_unvalidated({"label": label, "probability": round(p, 6)})
                for label, p in decision.labels
            ),
            spent=spent,
            finished_at=finished_at,
        )

    def decision(self, ticket: Ticket, probabilities: Sequence[float]) -> Decision:
        """Labels and lane of an image, whatever its deadline: what two models are compared by."""
        return decide(probabilities, self._manifest.classes, mode=self._manifest.mode, policy=self._policy(ticket))

    def expired(self, ticket: Ticket, *, spent: Spent, finished_at: float) -> SortResult:
        """The result of an image whose deadline passed before the model saw it."""
        return self._unsorted(ticket, Outcome.EXPIRED, error=None, spent=spent, finished_at=finished_at)

    def rejected(self, ticket: Ticket, error: BadInput, *, spent: Spent, finished_at: float) -> SortResult:
        """The result of bytes that are not a usable image."""
        return self._unsorted(ticket, Outcome.REJECTED, error=str(error), spent=spent, finished_at=finished_at)

    def impossible(self, ticket: Ticket, error: BadJob, *, finished_at: float) -> SortResult:
        """The result of an image whose time of capture or deadline can't be true: it has no total and no margin."""
        return self._result(
            ticket,
            outcome=Outcome.REJECTED,
            lane=self._policy(ticket).unsorted_lane,
            labels=(),
            spent=Spent(),
            finished_at=finished_at,
            error=str(error),
            times_are_possible=False,
        )

    def failed(self, ticket: Ticket, error: BaseException, *, spent: Spent, finished_at: float) -> SortResult:
        """The result of an image that was given up on after its attempts."""
        return self._unsorted(
            ticket, Outcome.FAILED, error=f"{type(error).__name__}: {error}", spent=spent, finished_at=finished_at
        )

    def _policy(self, ticket: Ticket) -> Policy:
        return self._policies.get(ticket.job.line, self._manifest.policy)

    def _unsorted(
        self, ticket: Ticket, outcome: Outcome, *, error: str | None, spent: Spent, finished_at: float
    ) -> SortResult:
        lane = self._policy(ticket).unsorted_lane
        return self._result(
            ticket, outcome=outcome, lane=lane, labels=(), spent=spent, finished_at=finished_at, error=error
        )

    def _result(
        self,
        ticket: Ticket,
        *,
        outcome: Outcome,
        lane: str,
        labels: tuple[Label, ...],
        spent: Spent,
        finished_at: float,
        uncertain: bool = False,
        error: str | None = None,
        times_are_possible: bool = True,
    ) -> SortResult:
        job = ticket.job
        total_ms = margin_ms = None
        if times_are_possible:
            total_ms = round((finished_at - job.captured_at) * 1000, 3)
            margin_ms = None if job.deadline_at is None else round((job.deadline_at - finished_at) * 1000, 3)
        timings_ms = {
            "queue": _rounded(ticket.queue_ms),
            "decode": _rounded(spent.decode_ms),
            "batch": _rounded(spent.batch_ms),
            "infer": _rounded(spent.infer_ms),
            "total": total_ms,
        }
        return SortResult.construct_unvalidated(
            {
                "job_id": job.job_id,
                "line": job.line,
                "camera": job.camera,
                "frame_id": job.frame_id,
                "encoder_count": job.encoder_count,
                "captured_at": job.captured_at,
                "finished_at": finished_at,
                "outcome": outcome,
                "labels": labels,
                "lane": lane,
                "uncertain": uncertain,
                "model": self.model,
                "timings_ms": Timings.construct_unvalidated(timings_ms),
                "deadline_margin_ms": margin_ms,
                "attempt": ticket.attempt,
                "worker": self._worker,
                "error": error,
            }
        )


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 3)
