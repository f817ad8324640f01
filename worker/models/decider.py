"""Builds the SortResult of a job: from its probabilities, or from what went wrong. Pure.

The pipeline uses it for batches and `tasks.sort_image` for single images, so both give the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from model_store.bundle.manifest import Manifest
from model_store.bundle.policy import Decision, Policy, decide, policies_by_line
from shared.errors import BadInput, BadJob
from shared.policy_overrides import PolicyOverride
from shared.schemas import Label, ModelRef, Outcome, SortResult, Timings
from worker.state.jobs import AdmittedJob, StageTimings

_NO_OVERRIDES: Mapping[str, PolicyOverride] = MappingProxyType({})


class Decider:
    """Builds the results of one model on one worker, by the model's policy or the policy of the line.

    `finished_at` is always the server's time.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        engine: str,
        worker: str,
        overrides: Mapping[str, PolicyOverride] = _NO_OVERRIDES,
    ) -> None:
        """`overrides` is the setting `policies`.

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
        self, admitted: AdmittedJob, probabilities: Sequence[float], *, timings: StageTimings, finished_at: float
    ) -> SortResult:
        """The result of an image that went through the model: `sorted`, or `late` past its deadline.

        Args:
            probabilities: one per class of the manifest, in its order.
        """
        decision = self.decision(admitted, probabilities)
        deadline_at = admitted.deadline_at
        late = deadline_at is not None and finished_at > deadline_at
        return self._result(
            admitted,
            outcome=Outcome.LATE if late else Outcome.SORTED,
            lane=self._policy(admitted).unsorted_lane if late else decision.lane,
            uncertain=decision.uncertain,
            labels=tuple(
                Label.construct_unvalidated({"label": label, "probability": round(p, 6)})
                for label, p in decision.labels
            ),
            timings=timings,
            finished_at=finished_at,
        )

    def decision(self, admitted: AdmittedJob, probabilities: Sequence[float]) -> Decision:
        """Labels and lane of an image, whatever its deadline. Two models are compared by these."""
        return decide(probabilities, self._manifest.classes, mode=self._manifest.mode, policy=self._policy(admitted))

    def expired(
        self, admitted: AdmittedJob, *, timings: StageTimings, finished_at: float, needs_s: float = 0.0
    ) -> SortResult:
        """The result of an image that would have taken `needs_s` more, longer than to its deadline."""
        _, margin_ms = _total_and_margin_ms(admitted, finished_at)
        error = _too_late(margin_ms, needs_ms=needs_s * 1000)
        return self._unsorted(admitted, Outcome.EXPIRED, error=error, timings=timings, finished_at=finished_at)

    def rejected(
        self, admitted: AdmittedJob, error: BadInput, *, timings: StageTimings, finished_at: float
    ) -> SortResult:
        """The result of bytes that are not a usable image."""
        return self._unsorted(admitted, Outcome.REJECTED, error=str(error), timings=timings, finished_at=finished_at)

    def impossible(self, admitted: AdmittedJob, error: BadJob, *, finished_at: float) -> SortResult:
        """The result of an image with an impossible time of capture or deadline: it has no total and no margin."""
        return self._result(
            admitted,
            outcome=Outcome.REJECTED,
            lane=self._policy(admitted).unsorted_lane,
            labels=(),
            timings=StageTimings(),
            finished_at=finished_at,
            error=str(error),
            times_are_possible=False,
        )

    def failed(
        self, admitted: AdmittedJob, error: BaseException, *, timings: StageTimings, finished_at: float
    ) -> SortResult:
        """The result of an image that is given up."""
        return self._unsorted(
            admitted, Outcome.FAILED, error=f"{type(error).__name__}: {error}", timings=timings, finished_at=finished_at
        )

    def _policy(self, admitted: AdmittedJob) -> Policy:
        return self._policies.get(admitted.job.line, self._manifest.policy)

    def _unsorted(
        self, admitted: AdmittedJob, outcome: Outcome, *, error: str | None, timings: StageTimings, finished_at: float
    ) -> SortResult:
        lane = self._policy(admitted).unsorted_lane
        return self._result(
            admitted, outcome=outcome, lane=lane, labels=(), timings=timings, finished_at=finished_at, error=error
        )

    def _result(
        self,
        admitted: AdmittedJob,
        *,
        outcome: Outcome,
        lane: str,
        labels: tuple[Label, ...],
        timings: StageTimings,
        finished_at: float,
        uncertain: bool = False,
        error: str | None = None,
        times_are_possible: bool = True,
    ) -> SortResult:
        job = admitted.job
        total_ms, margin_ms = _total_and_margin_ms(admitted, finished_at) if times_are_possible else (None, None)
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
                "timings_ms": _timings_ms(admitted, timings, total_ms=total_ms),
                "deadline_margin_ms": margin_ms,
                "attempt": admitted.attempt,
                "worker": self._worker,
                "error": error,
            }
        )


def _too_late(left_ms: float | None, *, needs_ms: float) -> str:
    """Why an image expired, for people."""
    if left_ms is None or left_ms <= 0:
        return "not started: its deadline had passed."
    return f"not started: it would have taken about {needs_ms:.0f} ms more, {left_ms:.0f} ms were left."


def _total_and_margin_ms(admitted: AdmittedJob, finished_at: float) -> tuple[float, float | None]:
    """From the capture to the result, and from the result to the deadline, if there is one."""
    total_ms = round((finished_at - admitted.captured_at) * 1000, 3)
    deadline_at = admitted.deadline_at
    return total_ms, None if deadline_at is None else round((deadline_at - finished_at) * 1000, 3)


def _timings_ms(admitted: AdmittedJob, timings: StageTimings, *, total_ms: float | None) -> Timings:
    return Timings.construct_unvalidated(
        {
            "queue": _rounded(admitted.queue_ms),
            "decode": _rounded(timings.decode_ms),
            "batch": _rounded(timings.batch_ms),
            "infer": _rounded(timings.infer_ms),
            "total": total_ms,
        }
    )


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 3)
