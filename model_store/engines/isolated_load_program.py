"""Run as a program by `engines.isolated_load`: loads a bundle's model with one engine, and replays its golden images.

    python -P -m model_store.engines.isolated_load_program FOLDER SHA256 ENGINE NICENESS

In: the folder of a bundle, and the digest of its manifest. Out: one line of JSON on standard output, `{"error": null}`
or the reason why the model is refused. A model file is a program for the engine, and may crash it: then no line comes,
and this process alone is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import cast

from model_store.bundle.files import open_bundle
from model_store.engines.loading import open_engine
from model_store.engines.protocol import EngineName
from shared.errors import BadBundle, SortlineError

_MAX_OUTPUT_BYTES = 10_000_000
# Where memory is short, this process is ended first, not the worker beside it.
_FIRST_TO_END = "1000"


def main(folder: str, manifest_sha256: str, engine: str, niceness: str) -> None:
    """Try the engine, and print what came of it."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the card's memory may be full: a worker has it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_OUTPUT_BYTES, _MAX_OUTPUT_BYTES))
    os.nice(int(niceness))
    with contextlib.suppress(OSError):  # only Linux has the file
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_END)
    error = None
    try:
        bundle = open_bundle(Path(folder))
        if bundle.manifest_sha256 != manifest_sha256:
            raise BadBundle(f"{folder} was exchanged after it was checked. Find out who can write the model store.")
        open_engine(bundle, cast(EngineName, engine), threads=1, max_batch=1, background=True)
    except SortlineError as problem:
        error = str(problem)
    except Exception as problem:  # an engine may raise anything
        error = f"{type(problem).__name__}: {problem}"
    print(json.dumps({"error": error}), flush=True)
    os._exit(0)  # threads of the engine may still run, and a model may have registered something for the end


if __name__ == "__main__":
    main(*sys.argv[1:])
