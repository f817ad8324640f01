"""The worker of the torture. Run as a process: `python -m torture.plant.worker_program null|real [restarted]`.

It is the worker of `sortline worker` with four differences. A parent process restarts it only if that is asked for:
most campaigns end and replace workers themselves. Its model may be `null`, which takes no processor time. Its
decoder crashes or hangs on a marked image (`torture.plant.images`), as a faulty native library would; Sortline's own
code runs unchanged. The decoder records each mark before it obeys it, which proves that it did. And it records what it
executes although it must not (`torture.plant.executions`).
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

from bench.engines.null import NullEngine, null_model
from model_store.bundle.preprocessing import decoder_of
from shared.cli import setup_logging
from shared.images.arrays import Images, Pixels
from shared.images.decoder_process import DecoderProcess
from shared.settings import Settings, load_settings
from torture.plant.executions import watch
from torture.plant.images import MARKS
from torture.plant.lifeline import end_with_caller
from worker.models.loading import LoadedModel, load_model
from worker.models.model import Decoder
from worker.parent.handover import Handover
from worker.parent.process import start_worker
from worker.service import WorkerService

# The variable that names the record of marks: a file whose lines have the process id, the mark and the image's SHA-256.
MARKS_VARIABLE = "TORTURE_MARKS"
# The argument of a worker that its parent process restarts.
RESTARTED = "restarted"
# The speed of the model `null`: slow enough that workers hold images when they are killed.
NULL_IMAGES_PER_S = 200.0


@dataclass(frozen=True)
class MarkedDecoder:
    """Decodes like `decoder`, but obeys marks."""

    decoder: Decoder
    record: Path

    def __call__(self, data: bytes, camera: str) -> Pixels:
        """Like the decoder, unless the image is marked."""
        self._obey(data)
        return self.decoder(data, camera)

    def decode_into(self, data: bytes, camera: str, out: Pixels) -> None:
        """Like the decoder, unless the image is marked."""
        self._obey(data)
        self.decoder.decode_into(data, camera, out)

    def is_costly(self, data: bytes, camera: str) -> bool:
        """Like the decoder. It does not obey marks."""
        return self.decoder.is_costly(data, camera)

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
    """Answers `good` for every image, at NULL_IMAGES_PER_S, and sleeps meanwhile."""

    def predict(self, batch: Images, *, on_ready_for_next: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """float32 [N, 2]."""
        time.sleep(len(batch) / NULL_IMAGES_PER_S)
        return super().predict(batch)


def load(engine: str, settings: Settings) -> LoadedModel:
    """The model for the torture's option `--engine`."""
    loaded = load_model(settings) if engine == "real" else _fixed_rate_model(settings)
    return replace(loaded, decoder=MarkedDecoder(loaded.decoder, Path(os.environ[MARKS_VARIABLE])))


def _fixed_rate_model(settings: Settings) -> LoadedModel:
    """The null model with the decoder of a real one, which rejects unusable images."""
    loaded = null_model(settings)
    process = DecoderProcess(max_bytes=settings.max_image_bytes, max_decode_bytes=settings.max_decode_bytes)
    decoder = decoder_of(loaded.manifest, settings, decoder_process=process)
    return replace(loaded, engine=FixedRateEngine(), decoder=decoder)


def main() -> int:
    """Run one worker, below a parent process if asked to. Returns the exit code."""
    engine = sys.argv[1]
    if RESTARTED in sys.argv:
        start_worker()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a hundred crashes would fill the disk with core files
    settings = load_settings()
    setup_logging(settings)
    watch()
    end_with_caller()
    handover = Handover.take_from(os.environ)
    return WorkerService(settings, load=lambda settings: load(engine, settings), handover=handover).run()


if __name__ == "__main__":
    sys.exit(main())
