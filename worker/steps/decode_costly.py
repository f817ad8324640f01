"""Decode costly images, which would hold up the decode threads. In: claimed jobs. Out: `Decoded`, or a verdict.

One thread waits for the process that decodes them (`shared.images.decoder_process`), so that no other image does.
"""

from __future__ import annotations

from shared.native_memory import give_back_free_memory
from shared.server.raw_connection import RawConnection
from worker.observe.supervisor import StageThread
from worker.rq.claimer import fetch_images
from worker.state.jobs import AdmittedJob, ClaimedJob
from worker.steps.admit import Admission
from worker.steps.decode import decode_for_model
from worker.steps.flow import IDLE_WAIT_S, Flow
from worker.steps.work import Decoded


class CostlyDecodeStep:
    """Fetches, admits and decodes one job a round.

    Its thread never counts as stuck: it waits for the server and for the decoder process, which have time limits.
    """

    def __init__(self, flow: Flow, admission: Admission, connection: RawConnection) -> None:
        self._flow = flow
        self._admission = admission
        self._connection = connection

    def __call__(self, thread: StageThread) -> None:
        """Take a job. It goes to the batcher, or gets its verdict here."""
        flow = self._flow
        thread.wait_for_work()
        claimed = flow.costly_jobs.begin(IDLE_WAIT_S)  # after Redis was unavailable, the same job again
        if claimed is None:
            return
        with thread.calling_redis():
            (image,) = fetch_images(self._connection, [claimed])
        thread.wait_for_work()
        if claimed.lease in flow.inflight:
            self._decode(claimed, image)
            give_back_free_memory()  # the file was in memory twice, and may be large
        flow.costly_jobs.end()

    def _decode(self, claimed: ClaimedJob, image: bytes | None) -> None:
        flow = self._flow
        admitted = self._admission.check(claimed)
        if isinstance(admitted, AdmittedJob):
            item = decode_for_model(flow, admitted, image, flow.active_models.current.route(admitted.job))
        else:
            item = admitted
        if not isinstance(item, Decoded):
            flow.conclude([item])
        elif claimed.lease in flow.inflight:
            flow.batcher.reserve(1)  # only now, so that no batch waits for a costly image
            flow.batcher.add(item)
        else:  # the job was given back meanwhile, as the worker is stopping, or its lease was lost
            item.model.buffer.give_back([item.slot])
