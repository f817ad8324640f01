"""Decodes costly images in a process of their own, which is killed when one takes too much time or memory.

In: what `decoding.decode_into` takes. Out: the same pixels, or BadImage. Any thread may ask and waits for its answer;
one image is decoded at a time. So a thread of its own should ask, not one for which other images wait.

Python can neither stop a thread inside a codec nor survive a codec's crash; a process can be killed and started anew.
It starts with the first image and is kept for the next ones. `decoder_program` runs in it and decodes by the same code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import numpy as np

from shared.errors import BadImage, DecoderLost
from shared.images import decoder_messages as messages
from shared.images.arrays import Pixels
from shared.images.crop_regions import Fit, Region
from shared.images.decode_cost import MAX_DECODE_S
from shared.images.decode_memory import MAX_DECODE_BYTES
from shared.images.decoding import MAX_BYTES, MAX_PX, check_file
from shared.images.formats import FORMATS
from shared.subprocesses import ours

log = logging.getLogger("sortline.decoder")

_PROGRAM = "shared.images.decoder_program"
# It imports NumPy and Pillow, perhaps on a busy machine.
_START_TIMEOUT_S = 60.0
# While other processes have the processor, an image may take this many times its processor time.
_WALL_FACTOR = 4.0
# Besides the image it holds the file, as it was read and as it was opened, and what a codec needs.
_FILE_COPIES = 3
_OWN_BYTES = 64_000_000
# A killed process ends at once, unless the machine hangs.
_END_TIMEOUT_S = 10.0
# Signals by which a process ends that did something wrong itself. SIGKILL and SIGTERM come from others.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}


class DecoderProcess:
    """One helper process, or none until it is needed. May be used by any thread; not after a fork."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, max_decode_bytes: int = MAX_DECODE_BYTES) -> None:
        """Starts nothing. The process may take `max_decode_bytes`, and some copies of a file of `max_bytes`."""
        self._max_decode_bytes = max_decode_bytes
        self._memory_bytes = max_decode_bytes + _FILE_COPIES * max_bytes + _OWN_BYTES
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def decode_into(
        self,
        data: bytes,
        out: Pixels,
        *,
        region: Region | None = None,
        fit: Fit = "stretch",
        max_bytes: int = MAX_BYTES,
        max_px: int = MAX_PX,
        max_decode_bytes: int = MAX_DECODE_BYTES,
        max_decode_s: float = MAX_DECODE_S,
    ) -> None:
        """Like `decoding.decode_into`, and to the same pixels.

        Raises:
            BadImage: as there; or it took too long (`unsupported`), too much memory (`too_large_px`), or the codec
                crashed (`corrupt`).
            DecoderLost: somebody ended the process, or it did not start.
        """
        content_type = check_file(data, max_bytes=max_bytes, max_px=max_px, max_decode_s=max_decode_s)
        options: dict[str, Any] = {
            "size_px": len(out),
            "region": None if region is None else astuple(region),
            "fit": fit,
            "max_bytes": max_bytes,
            "max_px": max_px,
            "max_decode_bytes": max_decode_bytes,
            "max_decode_s": max_decode_s,
        }
        with self._lock:
            kind, content = self._ask(data, options, what=FORMATS[content_type], pixel_bytes=out.nbytes)
        if kind == messages.REFUSED:
            raise BadImage(*json.loads(content))
        if kind == messages.NO_MEMORY:
            needs = f"more than {self._max_decode_bytes:,} bytes of memory (max_decode_bytes)"
            raise BadImage("too_large_px", f"decoding this {FORMATS[content_type]} needs {needs}: send fewer pixels.")
        if kind != messages.PIXELS:
            raise RuntimeError(f"the decoder process failed: {content.decode(errors='replace')}")
        out[:] = np.frombuffer(content, np.uint8).reshape(out.shape)

    def close(self) -> None:
        """End the process. The next image starts another."""
        with self._lock:
            self._end()

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        process = self._process
        return None if process is None else process.pid

    def _ask(self, data: bytes, options: dict[str, Any], *, what: str, pixel_bytes: int) -> tuple[bytes, bytes]:
        """The answer of the process, which is started if need be; if there is none, the process has been ended."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        max_decode_s: float = options["max_decode_s"]
        try:
            with _killed_after(process, _WALL_FACTOR * max_decode_s) as expired:
                messages.send_request(process.stdin, options, data)
                kind, content = messages.read_answer(process.stdout, pixel_bytes=pixel_bytes)
        except (OSError, EOFError, ValueError) as error:
            code = self._end()
            log.warning("the decoder process ended (%s) at this %s of %s bytes", _ending(code), what, f"{len(data):,}")
            if expired.is_set() or code == -signal.SIGPROF:
                raise _too_long(what, max_decode_s=max_decode_s, expired=expired.is_set()) from None
            if -code in _CRASHES:
                raise BadImage("corrupt", f"decoding this {what} crashed the decoder ({_ending(code)}).") from None
            raise DecoderLost(f"the decoder process ended ({_ending(code)}, {error!r}).") from None
        if expired.is_set() or kind == messages.NO_MEMORY:
            self._end()
        return kind, content

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:  # e.g. by the kernel, for want of memory
            self._end()
        if self._process is None:
            self._process = self._start()
        return self._process

    def _start(self) -> subprocess.Popen[bytes]:
        """Start it, by exec: a fork would copy the locks of other threads as they are."""
        process = subprocess.Popen(
            ours(str(self._memory_bytes), module=_PROGRAM),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # it only decodes
            process_group=0,  # a terminal sends Ctrl-C to the starter's group
        )
        assert process.stdout is not None
        try:
            with _killed_after(process, _START_TIMEOUT_S):
                messages.read_answer(process.stdout, pixel_bytes=0)
        except (EOFError, ValueError) as error:
            _reap(process)
            raise DecoderLost("the decoder process did not start; its standard error says why.") from error
        log.info("the decoder process %d decodes costly images", process.pid)
        return process

    def _end(self) -> int:
        """End the process if there is one; its exit code, or the signal that ended it as a negative number."""
        process, self._process = self._process, None
        return 0 if process is None else _reap(process)


@contextlib.contextmanager
def _killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill the process if the block takes longer; the event says so. Afterwards it is never killed."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()  # it may have begun to expire


def _reap(process: subprocess.Popen[bytes]) -> int:
    """End a process that may have ended already. Closing its input ends it too, but not while it hangs."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.1)  # it may be about to end by a signal of its own, which says why
    process.kill()
    code = process.wait(_END_TIMEOUT_S)
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what could not be written is still in the buffer
            stream.close()
    return code


def _too_long(what: str, *, max_decode_s: float, expired: bool) -> BadImage:
    limit = f"{max_decode_s:g} s of processor time (max_decode_s)"
    if expired:
        limit = f"{_WALL_FACTOR * max_decode_s:g} s beside other work ({_WALL_FACTOR:g} times max_decode_s)"
    return BadImage("unsupported", f"decoding this {what} took longer than {limit}: save it anew, as a plain JPEG.")


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
