"""Decode costly images: what would hold up the decode threads. In: claimed jobs. Out: `Decoded`, or a verdict.

One thread waits for the process that decodes them (`shared.images.decoder_process`), so that no other image does.
"""

from __future__ import annotations

from shared.server.raw_connection import RawConnection
from worker.observe.supervisor import StageThread
from worker.rq.claimer import fetch_images
from worker.state.jobs import ClaimedJob, Lease
from worker.steps.admit import Admission
from worker.steps.decode import admit_and_decode
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
        self._in_hand: ClaimedJob | None = None  # kept while Redis is unavailable

    @property
    def in_hand(self) -> Lease | None:
        """The job that is being decoded, or was last, if it is still held."""
        claimed = self._in_hand
        return claimed.lease if claimed is not None and claimed.lease in self._flow.inflight else None

    def __call__(self, thread: StageThread) -> None:
        """Take a job; it goes to the batcher, or gets its verdict here."""
        flow = self._flow
        thread.wait_for_work()
        if self._in_hand is None and (job := flow.costly_jobs.take(IDLE_WAIT_S)) is not None:
            self._in_hand = job.claimed
        claimed = self._in_hand
        if claimed is None:
            return
        with thread.calling_redis():
            (image,) = fetch_images(self._connection, [claimed])
        thread.wait_for_work()
        if claimed.lease in flow.inflight:
            self._decode(claimed, image)
        self._in_hand = None

    def _decode(self, claimed: ClaimedJob, image: bytes | None) -> None:
        flow = self._flow
        item = admit_and_decode(flow, self._admission, claimed, image)
        if not isinstance(item, Decoded):
            flow.conclude([item])
        elif claimed.lease in flow.inflight:
            flow.batcher.reserve(1)  # only now: no batch waits for it
            flow.batcher.add(item)
        else:  # it was given back meanwhile, as the worker is to stop
            item.model.buffer.give_back([item.slot])
