"""Infer: runs one batch through the engine. In: a batch of decoded items. Out: a verdict for each.

The only step that touches the engine.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence

from model_store.engines.protocol import Engine
from model_store.engines.validation import check_answer
from shared.errors import EngineFailed
from shared.images.arrays import Images
from worker.models.model import Probabilities
from worker.observe.supervisor import StageThread
from worker.state.jobs import StageTimings
from worker.steps.decide import Classified, Expired, Failed, Verdict
from worker.steps.flow import IDLE_WAIT_S, Flow
from worker.steps.work import Batch, Decoded, Prediction

log = logging.getLogger("sortline.infer")

# How long the step waits for a batch while the observer has other work for the engine.
BUSY_WAIT_S = 0.001


def infer(
    images: Images, engine: Engine, *, on_ready_for_next: Callable[[], None] | None = None
) -> list[Probabilities | EngineFailed]:
    """The probabilities of each image, in order; an EngineFailed where the engine failed on the image.

    If a batch fails, its images are tried one by one, so that one image doesn't fail the others. The engine calls
    `on_ready_for_next` when it could accept another batch.
    """
    try:
        return list(_predict(images, engine, on_ready_for_next))
    except EngineFailed as error:
        if len(images) == 1:
            return [error]
        log.warning("a batch of %d failed, trying its items one by one: %s", len(images), error)
    outputs: list[Probabilities | EngineFailed] = []
    for index in range(len(images)):
        outputs += infer(images[index : index + 1], engine)
    return outputs


class InferStep:
    """Runs one batch a round. The only step that touches the engine."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def __call__(self, thread: StageThread) -> None:
        """Take a batch, run it, and hand its verdicts on."""
        thread.wait_for_work()
        with self._flow.observer.turn():
            thread.heartbeat()
            self._round(thread)

    def _round(self, thread: StageThread) -> None:
        flow = self._flow
        flow.engine_clock.observe_queue(is_idle=flow.batcher.is_empty)
        wait_s = BUSY_WAIT_S if flow.observer.wants_time and not flow.batcher.is_busy else IDLE_WAIT_S
        batch = flow.batcher.take(wait_s)
        if batch is not None:
            thread.work_on([item.admitted.claimed.lease for item in batch.items + batch.expired])
            try:
                self._run(batch)
            finally:
                flow.batcher.mark_done(batch)  # also if none of its items went to the model
        flow.observer.between_batches(flow.batcher.spare_s)

    def _run(self, batch: Batch) -> None:
        flow = self._flow
        everything = batch.items + batch.expired
        model = everything[0].model  # all items of a batch are for one model
        expired = set(map(id, batch.expired))
        items: list[Decoded] = []
        predictions: list[Prediction] = []
        for item in sorted(everything, key=_slot_index):
            if item.admitted.claimed.lease not in flow.inflight:
                continue  # its lease was lost while it waited: another worker has it, and the lease thread counted it
            if id(item) in expired or flow.misses_deadline(item.admitted, 0.0):  # the clock may have been set meanwhile
                predictions.append(Prediction(item, None))
            else:
                items.append(item)
        verdicts: list[Verdict] = [
            Expired(
                admitted=item.admitted,
                model=model,
                at=flow.clock(),
                timings=StageTimings(item.decode_ms),
                needs_s=batch.needs_s if id(item) in expired else 0.0,
            )
            for item, _ in predictions
        ]
        if items:
            answered, answers = self._run_items(items, batch)
            predictions += answered
            verdicts += answers
        flow.conclude(verdicts)
        flow.observer.after_batch(predictions)
        model.buffer.give_back(item.slot for item in everything)

    def _run_items(self, items: Sequence[Decoded], batch: Batch) -> tuple[list[Prediction], list[Verdict]]:
        """Run the items. If the engine takes two calls at once, another thread calls it with its batch meanwhile."""
        flow, model = self._flow, items[0].model
        flow.engine_clock.entered()
        started_at = time.monotonic()
        images = model.buffer.as_batch([item.slot for item in items])
        with flow.latency.running(model.cost, images=len(items), since=batch.since):
            outputs = infer(
                images, model.engine, on_ready_for_next=functools.partial(flow.batcher.on_ready_for_next, batch)
            )
            predictions = [Prediction(item, output) for item, output in zip(items, outputs, strict=True)]
            if any(isinstance(output, EngineFailed) for output in outputs):
                predictions = flow.observer.after_failures(predictions)
        flow.engine_clock.left()
        flow.batcher.mark_done(batch)
        infer_s, at = time.monotonic() - started_at, flow.clock()
        flow.metrics.batch_size.observe(len(items))
        flow.metrics.batches.labels(batch.reason).inc()
        return predictions, [
            self._verdict(prediction, started_at=started_at, infer_s=infer_s, at=at) for prediction in predictions
        ]

    def _verdict(self, prediction: Prediction, *, started_at: float, infer_s: float, at: float) -> Verdict:
        item, output = prediction
        if isinstance(output, EngineFailed):
            return Failed(admitted=item.admitted, model=item.model, at=at, error=output)
        assert output is not None
        if item.cache_key is not None:
            self._flow.cache.add(item.cache_key, output)
        timings = StageTimings(item.decode_ms, (started_at - item.ready_at) * 1000, infer_s * 1000)
        return Classified(admitted=item.admitted, model=item.model, at=at, timings=timings, probabilities=output)


def _slot_index(item: Decoded) -> int:
    """Sort key that puts a batch in the order of its slots, so that the engine can read it as one array."""
    index = item.slot.index
    return -1 if index is None else index


def _predict(images: Images, engine: Engine, on_ready_for_next: Callable[[], None] | None) -> list[Probabilities]:
    try:
        probabilities = engine.predict(images, on_ready_for_next=on_ready_for_next)
    except EngineFailed:
        raise
    except Exception as error:  # native code may raise anything
        raise EngineFailed(f"{engine.name} raised {type(error).__name__}: {error}") from error
    check_answer(probabilities, images=len(images), classes_count=engine.classes_count, engine=engine.name)
    outputs: list[Probabilities] = probabilities.tolist()
    return outputs
