"""Run as a program by `decoder_process`: decodes one image after another, apart from the process that asks.

    python -P -m shared.images.decoder_program MEMORY_BYTES

In: requests on standard input. Out: answers on standard output, one each, both as `decoder_messages` has them.

It ends when its standard input closes, which happens when its starter ends, however that ends (kill -9 too). An image
that takes more processor time than its options allow ends it as well: by the kernel, so also inside native code.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import BadImage
from shared.images import decoder_messages as messages
from shared.images.crop_regions import Region
from shared.images.decoding import decode_into

# Other images, and the model, go first.
_NICENESS = 10
# Where memory runs out, the kernel should end this process rather than its starter.
_OOM_SCORE = 500

_Requests = queue.SimpleQueue[tuple[dict[str, Any], bytes]]


def main(memory_bytes: int) -> None:
    """Answer requests until standard input closes. Decoding may take `memory_bytes` more than the program itself."""
    # The starter decides when this process ends. systemd, for one, tells all processes of a service at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    requests: _Requests = queue.SimpleQueue()
    # A thread of its own, so that the end of the input is noticed while an image is decoded.
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    _limit_memory(memory_bytes)
    messages.send_answer(answers, messages.READY)
    while True:
        kind, content = _decode(*requests.get())
        messages.send_answer(answers, kind, content)
        if kind == messages.NO_MEMORY:  # what failed halfway may be in any state
            return


def _read(requests: _Requests) -> None:
    try:
        while True:
            requests.put(messages.read_request(sys.stdin.buffer))
    finally:  # the end of the input, or an error
        os._exit(0)


def _limit_memory(memory_bytes: int) -> None:
    """Let this process take no more than it has now and `memory_bytes`, where the kernel counts that (Linux)."""
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # hundreds of MB, for each image that crashes a codec
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return
    data_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
    limit_bytes = data_kb * 1024 + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _decode(options: dict[str, Any], data: bytes) -> tuple[bytes, bytes]:
    """The kind of answer, and its content."""
    size_px, region = options.pop("size_px"), options.pop("region")
    # The process's own clock: it stands still while other processes have the processor.
    signal.setitimer(signal.ITIMER_PROF, options["max_decode_s"])
    try:
        out = np.empty((size_px, size_px, 3), np.uint8)
        decode_into(data, out, region=None if region is None else Region(*region), **options)
    except BadImage as error:
        if isinstance(error.__cause__, MemoryError):
            return messages.NO_MEMORY, b""
        return messages.REFUSED, json.dumps([error.reason, str(error)[: messages.MAX_TEXT]]).encode()
    except MemoryError:
        return messages.NO_MEMORY, b""
    except Exception as error:
        return messages.FAILED, f"{type(error).__name__}: {error}"[: messages.MAX_TEXT].encode()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return messages.PIXELS, out.tobytes()


if __name__ == "__main__":
    main(int(sys.argv[1]))
