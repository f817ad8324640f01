"""Run as a program: `python -m bench.peers.mosec_server --port P …`, a mosec server until SIGTERM.

mosec reads its own options from the command line. It is set up as its performance guide recommends for CPUs: files are
passed on undecoded, batches form as requests come in, and each core has a process whose engine has one thread. To feed
a GPU, the guide recommends a separate stage for decoding. This was measured too: here both stages compete for the same
cores, and passing the pixels from one to the other costs 17 % more processor time (640x480).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mosec import Server, Worker

from bench.contenders.no_queue import decode_rows
from model_store.registry.store import open_store
from shared.cpu_cores import usable_cores
from shared.settings import load_settings
from worker.models.loading import load_model

# mosec's default. A full batch doesn't wait, and under this load most batches are full.
MAX_WAIT_MS = 10


class Classify(Worker):
    """Turns files into probabilities, which mosec returns as JSON."""

    def __init__(self) -> None:
        self._loaded = load_model(load_settings().model_copy(update={"engine_threads": 1}))

    def deserialize(self, data: bytes) -> bytes:
        """The body of a request is the file."""
        return bytes(data)

    def forward(self, data: Sequence[bytes]) -> list[list[float]]:
        """A row of probabilities for each file."""
        size_px = self._loaded.engine.input_size_px
        pixels = np.empty((len(data), size_px, size_px, 3), np.uint8)
        decode_rows(self._loaded, data, pixels)
        rows: list[list[float]] = self._loaded.engine.predict(pixels).tolist()
        return rows


def main() -> None:
    """Serve the model that the settings name."""
    settings = load_settings()
    # A missing model must fail here: mosec would restart its failing processes again and again.
    open_store(settings).open(settings.model)
    server = Server()  # type: ignore[no-untyped-call]  # mosec is only partly typed
    server.append_worker(Classify, num=usable_cores(), max_batch_size=settings.max_batch, max_wait_time=MAX_WAIT_MS)
    server.run()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
