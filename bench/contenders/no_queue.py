"""The ceiling for `bench line`: the worker's decoder and engine in one process, with no queue.

The ceiling is deliberately high: the images are in memory, and nothing is claimed, leased, decided or answered. As in
the worker, the decode threads work some batches ahead of the engine, and each decodes a chunk of a batch at a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from bench.contenders.sortline_worker import CAMERA, in_process
from bench.measuring.rates import rate_between
from model_store.engines.protocol import Engine
from shared.images.arrays import Pixels
from shared.settings import Settings
from worker.models.loading import LoadedModel, load_model

# As in the worker: one batch in the engine, one decoded, one being decoded.
_AHEAD = 2


def no_queue_rate(settings: Settings, images: Sequence[bytes]) -> float:
    """Images/s, measured like the other contenders: from the end of the first batch to the end of the last."""
    rate: float = in_process(_run, settings, images)
    return rate


def _run(settings: Settings, images: Sequence[bytes]) -> float:
    from shared.cpu_cores import usable_cores

    loaded = load_model(settings)
    threads = settings.decode_threads or usable_cores()
    decoded = decoded_ahead(loaded, images, batch_size=settings.max_batch, threads=threads)
    return rate_between(_finished_at(loaded.engine, decoded))


def _finished_at(engine: Engine, batches: Iterator[Pixels]) -> list[float]:
    """When the engine had answered each image. As many threads call it as `max_concurrency` says."""
    finished_at: list[float] = []

    def predict(pixels: Pixels) -> None:
        engine.predict(pixels)
        finished_at.extend([time.perf_counter()] * len(pixels))

    running: deque[Future[None]] = deque()
    with ThreadPoolExecutor(engine.max_concurrency) as callers:
        for pixels in batches:
            running.append(callers.submit(predict, pixels))
            if len(running) == engine.max_concurrency:
                running.popleft().result()
    for call in running:
        call.result()
    return finished_at


def decoded_ahead(loaded: LoadedModel, images: Sequence[bytes], *, batch_size: int, threads: int) -> Iterator[Pixels]:
    """Batches uint8 [N, S, S, 3], decoded on `threads` threads while the engine computes earlier ones."""
    starts = deque(range(0, len(images), batch_size))
    ahead: deque[tuple[Pixels, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while starts or ahead:
            while starts and len(ahead) <= _AHEAD:
                start = starts.popleft()
                batch = images[start : start + batch_size]
                pixels = np.empty((len(batch), loaded.engine.input_size_px, loaded.engine.input_size_px, 3), np.uint8)
                chunks = [slice(first, None, threads) for first in range(min(threads, len(batch)))]
                decoding = [pool.submit(decode_rows, loaded, batch[chunk], pixels[chunk]) for chunk in chunks]
                ahead.append((pixels, decoding))
            pixels, decoding = ahead.popleft()
            for future in decoding:
                future.result()
            yield pixels


def decode_rows(loaded: LoadedModel, images: Sequence[bytes], rows: Pixels) -> None:
    """Decode each image into its row."""
    for image, row in zip(images, rows, strict=True):
        loaded.decoder.decode_into(image, CAMERA, row)
