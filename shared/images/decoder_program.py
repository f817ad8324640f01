"""Run as a program by `decoder_process`: decodes one image after another, outside the process that needs them.

    python -P -m shared.images.decoder_program MEMORY_BYTES

In: requests on standard input. Out: one answer to each on standard output. `decoder_messages` defines both.

The program ends when its standard input closes, which happens when its starter ends for any reason, kill -9 included.
If an image takes more processor time than its options allow, the kernel ends the program, even inside native code.
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

# Other images, and the model, have precedence.
_NICENESS = 10
# If memory runs out, the kernel should kill this process rather than its starter.
_OOM_SCORE = 500

_Requests = queue.SimpleQueue[tuple[dict[str, Any], bytes]]


def main(memory_bytes: int) -> None:
    """Answer requests until standard input closes. Decoding may take `memory_bytes` beyond the program's own memory."""
    # The starter decides when this process ends. systemd, for example, sends SIGTERM to all processes of a service.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):  # the file exists only on Linux
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    requests: _Requests = queue.SimpleQueue()
    # A thread of its own, so that the end of the input is noticed while an image is decoded.
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    _limit_memory(memory_bytes)
    messages.send_answer(answers, messages.READY)
    while True:
        kind, content = _decode(*requests.get())
        messages.send_answer(answers, kind, content)
        if kind == messages.NO_MEMORY:  # a codec that failed halfway may be in any state
            return


def _read(requests: _Requests) -> None:
    try:
        while True:
            requests.put(messages.read_request(sys.stdin.buffer))
    finally:  # the end of the input, or an error
        os._exit(0)


def _limit_memory(memory_bytes: int) -> None:
    """Let this process take at most `memory_bytes` more than it has now, if the kernel can enforce it (Linux)."""
    import resource  # not on Windows

    # A core dump has hundreds of MB, and there would be one for each image that crashes a codec.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return
    data_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
    limit_bytes = data_kb * 1024 + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _decode(options: dict[str, Any], data: bytes) -> tuple[bytes, bytes]:
    """Decode one image; returns the kind of the answer, and its content."""
    size_px, region = options.pop("size_px"), options.pop("region")
    # A timer of the process's own processor time: it stands still while other processes use the processor.
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
