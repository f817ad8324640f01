"""Run as a program: `python -m bench.peers.mosec_server --port P …`, a mosec server until SIGTERM.

mosec reads its own options from the command line. Set up as its guide to performance has it, for CPUs: bytes go in as
they are, batches are formed as requests come, and each core has a process whose engine has one thread. Decoding as a
stage of its own, which the guide proposes to feed a GPU, was measured too: where both stages want the same cores, the
pixels that go from one to the other only cost (640x480: 17 % more processor time).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mosec import Server, Worker

from bench.contenders.no_queue import decode_rows
from model_store.bundle.files import open_bundle
from model_store.registry.store import open_store
from shared.cpu_cores import usable_cores
from shared.settings import load_settings
from worker.models.loading import load_model

# mosec's default; a full batch doesn't wait for it, and under this load most are full.
MAX_WAIT_MS = 10


class Classify(Worker):
    """Files to probabilities, which mosec answers as JSON."""

    def __init__(self) -> None:
        self._loaded = load_model(load_settings().model_copy(update={"engine_threads": 1}))

    def deserialize(self, data: bytes) -> bytes:
        """The body of a request is the file."""
        return bytes(data)

    def forward(self, data: Sequence[bytes]) -> list[list[float]]:
        """A row for each."""
        size_px = self._loaded.engine.input_size_px
        pixels = np.empty((len(data), size_px, size_px, 3), np.uint8)
        decode_rows(self._loaded, data, pixels)
        rows: list[list[float]] = self._loaded.engine.predict(pixels).tolist()
        return rows


def main() -> None:
    """Serve the model that the settings name."""
    settings = load_settings()
    # mosec starts a process that fails again and again: better fail here.
    open_bundle(open_store(settings).resolve(settings.model))
    server = Server()  # type: ignore[no-untyped-call]  # mosec's are partly typed
    server.append_worker(Classify, num=usable_cores(), max_batch_size=settings.max_batch, max_wait_time=MAX_WAIT_MS)
    server.run()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
