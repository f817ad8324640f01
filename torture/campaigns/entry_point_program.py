"""Sends the files of a folder through one of the entry points that need no worker. Run as a process: a file may end it.

    python -m torture.campaigns.entry_point_program classify|dataset FOLDER ANSWERS

Writes a line of JSON before each file and one after it, with what became of it, its time, and the memory that it took.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.engines.null import NullEngine, null_model
from model_store.bundle.files import Bundle
from model_store.datasets.dataset import Sample
from model_store.datasets.dataset_files import open_files
from model_store.datasets.image_loading import DecodeSettings, decode_samples
from model_store.evaluation.classify import classify_files
from shared.progress import ignore
from shared.settings import load_settings
from torture.corpus.case import REJECTED, SORTED
from torture.plant.lifeline import end_with_caller
from torture.plant.proc_files import proc_status_bytes

SIZE_PX = 224
# What became of a file, and the text that says why.
Answer = tuple[str, str | None]


def _classify(folder: Path) -> Callable[[str], Answer]:
    settings = load_settings()
    manifest = null_model(settings).manifest.model_copy(update={"input_size_px": SIZE_PX})
    bundle = Bundle(folder, manifest)

    def answer(name: str) -> Answer:
        (classified,) = classify_files([folder / name], bundle=bundle, engine=NullEngine(), settings=settings)
        return (SORTED, None) if classified.decision is not None else (REJECTED, classified.error)

    return answer


def _dataset(folder: Path) -> Callable[[str], Answer]:
    files, decode_settings = open_files(folder), DecodeSettings.of(load_settings())

    def answer(name: str) -> Answer:
        decoded = decode_samples(
            files, [Sample(name, ("good",))], size_px=SIZE_PX, decode_settings=decode_settings, on_progress=ignore
        )
        return (REJECTED, decoded.unreadable[0].reason) if decoded.unreadable else (SORTED, None)

    return answer


def main() -> None:
    """Try each file of the folder, in order of the names."""
    entry_point, folder, answers = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end_with_caller()
    answer = {"classify": _classify, "dataset": _dataset}[entry_point](folder)
    with answers.open("a", buffering=1) as file:
        for name in sorted(os.listdir(folder)):
            file.write(json.dumps({"file": name}) + "\n")
            Path("/proc/self/clear_refs").write_text("5")  # forgets the largest memory so far
            before_bytes, began = proc_status_bytes(os.getpid(), "VmRSS"), time.process_time()
            outcome, text = answer(name)
            seconds = time.process_time() - began
            peak_bytes = proc_status_bytes(os.getpid(), "VmHWM") - before_bytes
            done = {"file": name, "outcome": outcome, "text": text, "seconds": seconds, "peak_bytes": peak_bytes}
            file.write(json.dumps(done) + "\n")


if __name__ == "__main__":
    main()
