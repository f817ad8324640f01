"""`bench idle`: how soon an idle worker picks a job up, and what idle workers cost the server.

Complete workers, with an engine that answers at once. Single images come at random times through the
real producer: files written into the folder that a camera watches.
"""

from __future__ import annotations

import io
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.contenders.worker_processes import idle_workers
from bench.engines.null import null_model
from bench.measuring.machine import ServerUse
from bench.measuring.record import OnProgress, Record, percentiles
from bench.measuring.traffic import results, tail, times_ms, wait_answered
from shared.errors import Transient
from shared.server.connection import connect
from shared.settings import Settings, environment
from shared.subprocesses import Child

LINE = "idle"
# The shortest and the longest pause between two images: long enough for the worker to be idle again.
INTERVAL_S = (0.02, 0.2)
# The server's load is measured for WATCH_S, from SETTLE_S after the start: new workers do more than idle ones.
WATCH_S = 20.0
SETTLE_S = 3.0


def bench_idle(
    settings: Settings, *, jobs: int, workers: int, on_progress: OnProgress, watch_s: float = WATCH_S
) -> Record:
    """Pick-up times of `jobs` single images with one idle worker and with `workers` of them, and the server's load."""
    settings = settings.model_copy(update={"log_level": "warning", "metrics_port": 0})
    client: Any = connect(settings.redis_url)
    on_progress("idle: the server alone")
    alone = _server_use(client, watch_s)
    counts = sorted({1, workers})
    found = [
        _with_workers(settings, count, client=client, jobs=jobs, watch_s=watch_s, on_progress=on_progress)
        for count in counts
    ]
    return {
        "benchmark": "idle",
        "watched_s": watch_s,
        "interval_s": INTERVAL_S,
        "server_alone": alone,
        "crews": [
            group | {"server_core_share_of_workers": round(group["server"]["core_share"] - alone["core_share"], 5)}
            for group in found
        ],
    }


def _with_workers(
    settings: Settings, count: int, *, client: Any, jobs: int, watch_s: float, on_progress: OnProgress
) -> Record:
    client.flushdb()
    with idle_workers(settings, null_model, count=count, client=client, on_progress=on_progress):
        on_progress(f"idle: {count} workers, the server's load")
        time.sleep(SETTLE_S)
        server = _server_use(client, watch_s)
        on_progress(f"idle: {count} workers, {jobs} single images")
        _send_singly(settings, jobs, client=client)
        found = results(client, LINE)
    waits_ms = [result.timings_ms.queue for result in found if result.timings_ms.queue is not None]
    return {
        "workers": count,
        "server": server,
        # Ends when the worker sends its claim; the job arrives a round trip later.
        "pickup_ms": percentiles(waits_ms, digits=2),
        # Includes that round trip and everything after it, e.g. the wait for a batch to fill (`linger_ms`).
        "capture_to_result_ms": percentiles(times_ms(found), digits=2),
    }


def _server_use(client: Any, watch_s: float) -> dict[str, float]:
    """The server's share of one core, and its commands a second. Measuring this costs 4 commands."""
    before, began = ServerUse.of(client), time.monotonic()
    time.sleep(watch_s)
    after, seconds = ServerUse.of(client), time.monotonic() - began
    return {
        "core_share": round((after.cpu_s - before.cpu_s) / seconds, 5),
        "commands_per_s": round((after.commands - before.commands) / seconds, 1),
    }


def _send_singly(settings: Settings, jobs: int, *, client: Any) -> None:
    """Write images where a camera looks for them, one by one at random times, and wait for the results."""
    image, spread = _image(), random.Random(0)  # noqa: S311  # times, not secrets
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sortline-idle-")))
        watched = folder / "camera"
        watched.mkdir()
        arguments = ["camera", "--line", LINE, "--source", str(watched), "--count", str(jobs)]
        variables = environment(settings.model_copy(update={"state_dir": folder / "state"}))
        camera = stack.enter_context(Child(arguments, log=folder / "camera.log", variables=variables))
        for number in range(jobs):
            (watched / f"{number:06}.jpg").write_bytes(image)
            if number == 0:  # once the first is answered, the camera is running
                wait_answered(client, LINE, count=1, child=camera if jobs > 1 else None)
            time.sleep(spread.uniform(*INTERVAL_S))
        while (code := camera.poll()) is None:
            time.sleep(0.05)
        if code:
            raise Transient(f"the camera ended with {code}: {tail(camera)}")
        wait_answered(client, LINE, count=jobs)


def _image() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((224, 224, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()
