"""Decodes costly images in a separate process, which is ended when an image takes too much time or memory.

In: the arguments of `decoding.decode_into`. Out: the same pixels, or BadImage. Any thread may call it; the call blocks
until the image is decoded, and one image is decoded at a time. So it should be called from a thread of its own, and not
from one for which other images wait.

Python can neither stop a thread inside a codec nor survive a codec's crash, but a process can be killed and replaced.
The process starts with the first image and is kept for the next ones. It runs `decoder_program`, which decodes with the
same code.
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
from shared.subprocesses import name_of_ending, own_command

log = logging.getLogger("sortline.decoder")

_PROGRAM = "shared.images.decoder_program"
# The process imports NumPy and Pillow, perhaps on a busy machine.
_START_TIMEOUT_S = 60.0
# An image may take this many times its processor time, because other processes may be using the processor.
_WALL_FACTOR = 4.0
# Besides the image, the process holds the file, as it was read and as it was opened, and the memory of a codec.
_FILE_COPIES = 3
_OWN_BYTES = 64_000_000
# A killed process ends at once, unless the machine hangs.
_END_TIMEOUT_S = 10.0
# Signals that a process gets for its own faults. SIGKILL and SIGTERM are sent by others.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}


class DecoderProcess:
    """One helper process, or none until it is needed. May be used by any thread; not after a fork."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, max_decode_bytes: int = MAX_DECODE_BYTES) -> None:
        """Start nothing yet. The process may take `max_decode_bytes`, plus a few copies of a file of `max_bytes`."""
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
        sample_bits: int = 0,
    ) -> None:
        """Decode like `decoding.decode_into`, to the same pixels.

        Raises:
            BadImage: as `decoding.decode_into`; or the image took too long (`unsupported`) or too much memory
                (`too_large_px`), or crashed the codec (`corrupt`).
            DecoderLost: the process was ended from outside, or did not start.
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
            "sample_bits": sample_bits,
        }
        with self._lock:
            kind, content = self._ask(data, options, what=FORMATS[content_type], pixel_bytes=out.nbytes)
        if kind == messages.REFUSED:
            raise BadImage(*json.loads(content))
        if kind == messages.NO_MEMORY:
            needs = f"more than {self._max_decode_bytes:,} bytes of memory (max_decode_bytes)"
            raise BadImage("too_large_px", f"decoding this {FORMATS[content_type]} needs {needs}: use fewer pixels.")
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
        """Send a request and return the answer. Starts the process if need be; if it does not answer, ends it."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        max_decode_s: float = options["max_decode_s"]
        try:
            with _killed_after(process, _WALL_FACTOR * max_decode_s) as expired:
                messages.send_request(process.stdin, options, data)
                kind, content = messages.read_answer(process.stdout, pixel_bytes=pixel_bytes)
        except (OSError, EOFError, ValueError) as error:
            code = self._end()
            ending = name_of_ending(code)
            log.warning(
                "the decoder process ended (%s) while decoding a %s of %s bytes", ending, what, f"{len(data):,}"
            )
            if expired.is_set() or code == -signal.SIGPROF:
                raise _too_long(what, max_decode_s=max_decode_s, expired=expired.is_set()) from None
            if -code in _CRASHES:
                raise BadImage("corrupt", f"decoding this {what} crashed the decoder ({ending}).") from None
            raise DecoderLost(f"the decoder process ended ({ending}, {error!r}).") from None
        if expired.is_set() or kind == messages.NO_MEMORY:
            self._end()
        return kind, content

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:  # ended, e.g. by the kernel for its memory
            self._end()
        if self._process is None:
            self._process = self._start()
        return self._process

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process by exec: a fork would copy locks that other threads hold."""
        process = subprocess.Popen(  # noqa: S603  # our own program and a number
            own_command(str(self._memory_bytes), module=_PROGRAM),
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
        log.info("started decoder process %d for costly images", process.pid)
        return process

    def _end(self) -> int:
        """End the process if there is one; returns its exit code, negative for the signal that ended it."""
        process, self._process = self._process, None
        return 0 if process is None else _reap(process)


@contextlib.contextmanager
def _killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill the process if the block takes longer, and set the event. After the block the process is not killed."""
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
        timer.join()  # `expire` may have begun


def _reap(process: subprocess.Popen[bytes]) -> int:
    """End a process that may have ended already; returns its exit code.

    Closing its input would end it too, but not while it hangs.
    """
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.1)  # it may be about to end from a signal that tells the cause, e.g. SIGSEGV
    process.kill()
    code = process.wait(_END_TIMEOUT_S)
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # closing tries to write what is left in the buffer
            stream.close()
    return code


def _too_long(what: str, *, max_decode_s: float, expired: bool) -> BadImage:
    limit = f"{max_decode_s:g} s of processor time (max_decode_s)"
    if expired:
        limit = f"{_WALL_FACTOR * max_decode_s:g} s beside other work ({_WALL_FACTOR:g} times max_decode_s)"
    return BadImage("unsupported", f"decoding this {what} took longer than {limit}: save it again, as a plain JPEG.")
