"""The peer mosec: the model behind an HTTP server that batches, with a client that keeps it saturated."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.contenders.sortline_worker import in_process
from bench.measuring.rates import rate_between
from bench.measuring.traffic import tail
from bench.peers.http_load import HOST, Answers, post_all
from shared.cpu_cores import usable_cores
from shared.errors import Transient
from shared.ports import free_port
from shared.settings import Settings, environment
from shared.subprocesses import Child

# Requests under way, in batches for each core's process: one batch that it works on, and one that waits.
_BATCHES_UNDER_WAY_PER_CORE = 2
_PATIENCE_S = 60.0
_POLL_S = 0.05
_INFERENCE_PATH = "/inference"


def mosec_rate(settings: Settings, images: Sequence[bytes]) -> tuple[float, float]:
    """Images/s of a mosec server that gets these images, and the share of a core that its client used.

    Raises:
        Transient: the server did not start, ended, or refused an image; quotes its log.
    """
    connections = min(_BATCHES_UNDER_WAY_PER_CORE * usable_cores() * settings.max_batch, len(images) // 2)
    with tempfile.TemporaryDirectory(prefix="sortline-mosec-") as folder:
        port = free_port()
        arguments = ["--address", HOST, "--port", str(port), "--path", f"{folder}/sockets"]
        # The first requests wait for the model to be loaded.
        arguments += ["--timeout", str(round(_PATIENCE_S * 1000)), "--log-level", "warning"]
        log = Path(folder) / "server.log"
        with Child(arguments, log=log, module="bench.peers.mosec_server", variables=environment(settings)) as server:
            _wait_listening(port, server)
            try:
                answers: Answers = in_process(_post_all, port, images, connections)
            except (Transient, OSError, EOFError) as error:
                raise Transient(f"mosec failed: {error} {tail(server)}") from error
    # The first answers include the server's start.
    return rate_between(answers.finished_at[connections - 1 :]), answers.client_core_share


def _post_all(port: int, images: Sequence[bytes], connections: int) -> Answers:
    return post_all(port, _INFERENCE_PATH, images, connections=connections)


def _wait_listening(port: int, server: Child) -> None:
    until = time.monotonic() + _PATIENCE_S
    while server.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection((HOST, port), timeout=1.0).close()
            return
        except OSError:
            time.sleep(_POLL_S)
    raise Transient(f"mosec did not start: {tail(server)}")
