"""Decode costly images: what would hold up the decode threads. In: claimed jobs. Out: `Decoded`, or a verdict.

One thread waits for the process that decodes them (`shared.images.decoder_process`), so that no other image does.
"""

from __future__ import annotations

from shared.server.raw_connection import RawConnection
from worker.observe.supervisor import StageThread
from worker.rq.claimer import fetch_images
from worker.state.jobs import AdmittedJob, ClaimedJob
from worker.steps.admit import Admission
from worker.steps.decide import Verdict
from worker.steps.decode import decode_job
from worker.steps.flow import IDLE_WAIT_S, Flow
from worker.steps.work import Decoded


class CostlyDecodeStep:
    """Fetches, admits and decodes one job a round.

    Its thread never counts as stuck: all that it waits for, the server and the process, has limits of its own.
    """

    def __init__(self, flow: Flow, admission: Admission, connection: RawConnection) -> None:
        self._flow = flow
        self._admission = admission
        self._connection = connection
        self._without_image: ClaimedJob | None = None  # kept while Redis is unavailable

    def __call__(self, thread: StageThread) -> None:
        """Take a job; it goes to the batcher, or gets its verdict here."""
        flow = self._flow
        thread.wait_for_work()
        if self._without_image is None and (job := flow.costly_jobs.take(IDLE_WAIT_S)) is not None:
            self._without_image = job.claimed
        claimed = self._without_image
        if claimed is None:
            return
        with thread.calling_redis():
            (image,) = fetch_images(self._connection, [claimed])
        self._without_image = None
        if claimed.lease not in flow.inflight:
            return  # another worker has the job by now
        thread.wait_for_work()
        item = self._decode(claimed, image)
        if isinstance(item, Decoded):
            flow.batcher.reserve(1)  # only now: no batch waits for it
            flow.batcher.add(item)
        else:
            flow.conclude([item])

    def _decode(self, claimed: ClaimedJob, image: bytes | None) -> Decoded | Verdict:
        admitted = self._admission.check(claimed)
        if not isinstance(admitted, AdmittedJob):
            return admitted
        return decode_job(self._flow, admitted, image, self._flow.active_models.current.route(admitted.job))
