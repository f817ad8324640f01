"""The worker of the torture. Run as a process: `python -m torture.worker_program null|real`.

It is the worker of `sortline worker` but for two things. Its model may be one that costs the processor nothing
(`null`). And its decoder crashes or hangs on a marked image (`torture.images`), as a fault in a native library would,
without a change to our own code. It records each mark before it obeys: the proof that it did.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.decoding import decoder_of
from model_store.engines.checks import Images
from shared.settings import Settings, load_settings
from shared.terminal import setup_logging
from torture.images import MARKS
from torture.lifeline import end_with_caller
from worker.bench.null import NullEngine, null_served
from worker.buffer import Pixels
from worker.decode import Decoder
from worker.loading import Served, load_served
from worker.service import WorkerService

# Names the file that marks are recorded in, a line each: the process's id, the mark, and the image's SHA-256.
MARKS_VARIABLE = "TORTURE_MARKS"
# Of the model `null`: somewhat more than a real one does on a CPU. Workers have images in hand when they are killed.
NULL_IMAGES_PER_S = 200.0


@dataclass(frozen=True)
class MarkedDecoder:
    """Decodes as `decoder` does, but obeys marks."""

    decoder: Decoder
    record: Path

    def __call__(self, data: bytes, camera: str) -> Pixels:
        """As the decoder."""
        self._obey(data)
        return self.decoder(data, camera)

    def decode_into(self, data: bytes, camera: str, out: Pixels) -> None:
        """As the decoder."""
        self._obey(data)
        self.decoder.decode_into(data, camera, out)

    def _obey(self, data: bytes) -> None:
        for mark, end in MARKS.items():
            if data.endswith(end):
                with self.record.open("a") as file:
                    file.write(f"{os.getpid()} {mark} {hashlib.sha256(data).hexdigest()}\n")
                if mark == "abort":
                    os.abort()
                while True:
                    time.sleep(3600)


class FixedRateEngine(NullEngine):
    """Says `good` of everything, at NULL_IMAGES_PER_S, and leaves the processor free meanwhile."""

    def predict(self, batch: Images, *, hungry: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """float32 [N, 2]."""
        time.sleep(len(batch) / NULL_IMAGES_PER_S)
        return super().predict(batch)


def load(engine: str, settings: Settings) -> Served:
    """The model that the torture's option `--engine` names."""
    served = load_served(settings) if engine == "real" else _fixed_rate_served(settings)
    return replace(served, decoder=MarkedDecoder(served.decoder, Path(os.environ[MARKS_VARIABLE])))


def _fixed_rate_served(settings: Settings) -> Served:
    """With the decoder of a real model: what is no usable image must be rejected."""
    served = null_served(settings)
    return replace(served, engine=FixedRateEngine(), decoder=decoder_of(served.manifest, settings))


def main() -> int:
    """Run one worker; its exit code."""
    engine = sys.argv[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a hundred crashes must not fill the disk with core files
    settings = load_settings()
    setup_logging(settings)
    end_with_caller()
    return WorkerService(settings, load=lambda settings: load(engine, settings)).run()


if __name__ == "__main__":
    sys.exit(main())
